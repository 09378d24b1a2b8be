"""What a manager can be asked for."""

from collections.abc import Sequence

from max.driver import Device

from kvcache.errors import (
    InsufficientMemoryError,
    InvalidParamsError,
    NotOfferedError,
    UnknownReplicaError,
)
from kvcache.spec import KVCacheParams, KVCacheStrategy


def check_sizes(**sizes: int) -> None:
    """Verifies that sizes are positive.

    Raises:
        InvalidParamsError: If one is not.
    """
    for name, value in sizes.items():
        if value < 1:
            raise InvalidParamsError(f"{name} must be positive, got {value}")


def check_agreement(
    params: KVCacheParams, devices: Sequence[Device], page_size: int
) -> None:
    """Verifies that a manager's arguments agree with its params.

    Raises:
        InvalidParamsError: If they do not.
    """
    if len(devices) != params.n_devices:
        raise InvalidParamsError(
            f"wanted {params.n_devices} devices, as params.n_devices says, got "
            f"{len(devices)}"
        )
    if params.page_size not in (None, page_size):
        raise InvalidParamsError(
            f"page_size must equal params.page_size {params.page_size}, got "
            f"{page_size}"
        )


def check_partial(min_partial_hit: int | None, page_size: int) -> None:
    """Verifies from which part of a page on it is to be copied.

    Raises:
        InvalidParamsError: If it is not a part of a page.
    """
    if min_partial_hit is not None and not 0 < min_partial_hit < page_size:
        raise InvalidParamsError(
            f"wanted a min_partial_hit from 1 to {page_size - 1}, tokens of a "
            f"page of {page_size}, or None, got {min_partial_hit}"
        )


def check_pinning(max_pinned_share: float, max_pins: int) -> None:
    """Verifies how much can be pinned.

    Raises:
        InvalidParamsError: If it is out of range.
    """
    if not 0 <= max_pinned_share <= 1:
        raise InvalidParamsError(
            f"wanted a max_pinned_share from 0 to 1, got {max_pinned_share}"
        )
    if max_pins < 0:
        raise InvalidParamsError(f"wanted max_pins from 0 on, got {max_pins}")


def check_offered(params: KVCacheParams) -> None:
    """Verifies that nothing is wanted that is still to come.

    Raises:
        NotOfferedError: If something is.
    """
    if params.cache_strategy != KVCacheStrategy.PAGED:
        raise NotOfferedError(
            f"wanted the paged strategy, got {params.cache_strategy.value}"
        )


def check_replica(replica: int, num_replicas: int) -> None:
    """Verifies that there is a replica.

    Raises:
        UnknownReplicaError: If there is not.
    """
    if not 0 <= replica < num_replicas:
        raise UnknownReplicaError(
            f"wanted a replica from 0 to {num_replicas - 1}, got {replica}"
        )


def pages_in(memory: int, bytes_per_page: int) -> int:
    """Returns how many pages a memory budget holds.

    Args:
        memory: Bytes for pages.
        bytes_per_page: Bytes of one page.

    Raises:
        InsufficientMemoryError: If it does not hold one.
    """
    if memory < bytes_per_page:
        raise InsufficientMemoryError(
            f"wanted at least {bytes_per_page} bytes of cache memory for a "
            f"single page, got {memory}"
        )
    return memory // bytes_per_page
