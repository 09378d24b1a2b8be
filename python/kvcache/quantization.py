"""How keys and values of 8 bits are scaled."""

from dataclasses import dataclass
from enum import StrEnum

from kvcache.errors import InvalidParamsError

QUANTIZED_DTYPES = ("float8_e4m3fn", "float8_e5m2", "int8")
"""The element types, by name, that are kept with scales."""

SCALE_BYTES = 4
"""Bytes of a scale: they are float32."""

_SHARED_WIDTH = 8  # Aligned elements that share a scale whatever is chosen.


class Granularity(StrEnum):
    """Which elements of a pool share a scale."""

    TENSOR = "tensor"
    """All keys of a layer share one, and all values."""
    HEAD = "head"
    """All keys of a layer's head share one, and all values."""
    TOKEN = "token"  # noqa: S105
    """Each group of elements of one token's head shares one."""

    @property
    def number(self) -> int:
        """What kernels call it."""
        return 1 + list(Granularity).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Which elements of quantised pages share a scale.

    With `TOKEN` a store takes each scale from the numbers that share it. With
    the others the caller gives the scales of a layer to every store, measured
    beforehand; over the life of a pool they must stay the same, because a page
    has one for all its tokens.

    Raises:
        InvalidParamsError: If the granularity is unknown, or the group size is
            no power of two from 8 on, or given without `TOKEN`.
    """

    granularity: Granularity = Granularity.TOKEN
    """Which elements share a scale; its name may be given."""
    group_size: int | None = None
    """Elements of a head that share a scale; by default all of them."""

    def __post_init__(self) -> None:
        """Keeps the granularity as such and checks the group size."""
        if self.granularity not in list(Granularity):
            raise InvalidParamsError(
                f"granularity must be one of {', '.join(Granularity)}, got "
                f"{self.granularity!r}"
            )
        chosen = Granularity(self.granularity)
        object.__setattr__(self, "granularity", chosen)
        size = self.group_size
        if size is None:
            return
        if chosen is not Granularity.TOKEN:
            raise InvalidParamsError(
                f"group_size wants granularity token, got {chosen}"
            )
        if size < _SHARED_WIDTH or size & (size - 1):
            raise InvalidParamsError(
                f"group_size must be a power of two from {_SHARED_WIDTH} on, "
                f"got {size}"
            )

    def scales_per_page(
        self, *, page_size: int, num_kv_heads: int, head_dim: int
    ) -> tuple[int, int, int]:
        """Returns the shape of a page's scales for one layer's keys.

        Args:
            page_size: Tokens per page.
            num_kv_heads: Key-value heads on one device.
            head_dim: Elements per head.

        Returns:
            How many tokens, heads, and groups of a head have their own.

        Raises:
            InvalidParamsError: If the groups do not divide a head.
        """
        if self.granularity is Granularity.TENSOR:
            return 1, 1, 1
        if self.granularity is Granularity.HEAD:
            return 1, num_kv_heads, 1
        group_size = self.group_size or head_dim
        if head_dim % group_size:
            raise InvalidParamsError(
                f"group_size must divide head_dim ({head_dim}), got "
                f"{group_size}"
            )
        return page_size, num_kv_heads, head_dim // group_size
