"""Whether a page comes from the host, or is computed again."""

from dataclasses import dataclass

from kvcache.errors import InvalidParamsError
from kvcache.spec import KVCacheParams

_GIGA = 10**9


@dataclass(frozen=True, slots=True)
class LoadOrCompute:
    """Compares the seconds that a page takes on either way.

    Both grow with the pages alone, so that either all pages of a prefix are
    worth loading or none is. The devices of a replica load at the same time,
    each its share of the heads.

    Raises:
        InvalidParamsError: If a rate is not positive.
    """

    host_load_gbps: float | None = None
    """10^9 bytes that arrive at a device from the host per second."""
    prefill_tokens_per_second: float | None = None
    """Tokens that a replica computes per second."""

    def __post_init__(self) -> None:
        """Verifies the rates."""
        for name in self.__slots__:
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise InvalidParamsError(f"{name} must be positive, got {rate}")

    def max_onload(
        self, params: KVCacheParams, *, num_layers: int, page_size: int
    ) -> int | None:
        """Returns how many pages a sequence loads at most; None for all.

        Without both rates nothing is known, and everything is loaded.

        Args:
            params: Shape of a token's keys and values.
            num_layers: Layers of the model.
            page_size: Tokens per page.
        """
        load, prefill = self.host_load_gbps, self.prefill_tokens_per_second
        if load is None or prefill is None:
            return None
        tokens_bytes = params.bytes_per_page(num_layers, page_size)
        share = tokens_bytes / params.devices_per_replica
        return None if share / (load * _GIGA) <= page_size / prefill else 0
