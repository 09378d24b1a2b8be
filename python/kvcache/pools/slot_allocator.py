"""What a prefix cache asks of the pool that its slots are from."""

from typing import Any, Protocol

import torch

from kvcache.errors import InvalidParamsError


class SlotAllocator(Protocol):
    """Takes token slots back.

    Looked for besides: `free_swa(indices)`, which frees what sliding windows
    keep of slots and leaves the rest, and after which `free` frees the rest;
    `device`, where indices go; `size`, its slots; `page_size`, slots that it
    frees together.
    """

    def free(self, indices: torch.Tensor) -> object:
        """Takes slots back, int32 `[num_slots]`."""


def device_of(pool: SlotAllocator | None) -> torch.device:
    """Returns where a pool's indices are."""
    return torch.device(getattr(pool, "device", "cpu"))


def can_free_swa(pool: SlotAllocator | None) -> bool:
    """Returns whether sliding windows' share of a slot is freed by itself."""
    return pool is None or hasattr(pool, "free_swa")


def one_pool(pool: Any, same: Any) -> Any:
    """Returns the pool that was given under either of two names.

    Raises:
        InvalidParamsError: If both were given, and differ.
    """
    if pool is not None and same is not None and pool is not same:
        raise InvalidParamsError(
            "wanted one pool, got `pool` and another "
            "`token_to_kv_pool_allocator`"
        )
    return same if pool is None else pool


def check_page_size(pool: SlotAllocator | None, page_size: int) -> None:
    """Verifies that no page of a pool would be freed in part.

    Raises:
        InvalidParamsError: If the page size is not positive, or no multiple of
            the pool's.
    """
    if page_size < 1:
        raise InvalidParamsError(
            f"wanted a page_size from 1 on, got {page_size}"
        )
    unit = getattr(pool, "page_size", 1)
    if page_size % unit:
        raise InvalidParamsError(
            f"wanted a page_size that is a multiple of the pool's {unit}, got "
            f"{page_size}"
        )
