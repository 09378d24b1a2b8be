"""Hands out the slots of a `KVPool`, token by token or page by page."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from kvcache.pools.devices import available_device
from kvcache.pools.free_units import FreeUnits, Units
from kvcache.pools.indices import at_least, check_index, flat_indices
from kvcache.pools.kv_pool import num_slots

HOST = torch.device("cpu")


class TokenToKVPoolAllocator:
    """Knows which slots of a `KVPool` are free.

    With pages, an allocation is of whole pages, and freeing one token frees
    its page: the slots behind an allocation in its last page belong to it.
    Page 0, where slot 0 is, is never handed out, so indices go up to
    `page_size` past `size`; `make_full_attention_net_mem_pool` makes a pool
    that has these slots.

    Args:
        size: Tokens that can be allocated, rounded up to whole pages.
        device: Where the lists are, and the indices that are handed out.
        page_size: Tokens per page; 1 allocates single tokens.
        need_sort: Whether low slots are handed out first after a merge.

    Raises:
        DeviceNotAvailableError: If torch does not have the device.
        InvalidParamsError: If a size is not positive, or too large for int32
            slots.

    Performance:
        `alloc` and `free` take time in proportion to the tokens they are
        given, however large the pool is; a merge, in proportion to what it
        merges. The books are in host memory: with a GPU, `alloc` sends its
        indices there without waiting, and `free` waits for those that it is
        given, unless they are in host memory already.
    """

    def __init__(
        self,
        size: int,
        device: str | torch.device = "cuda",
        page_size: int = 1,
        need_sort: bool = True,
    ) -> None:
        """Makes all slots free."""
        self._last_slot = num_slots(size, page_size) - 1
        self.size = size
        self.page_size = page_size
        self.device = available_device(device)
        self.need_sort = need_sort
        self._units = FreeUnits(
            self._last_slot // page_size,
            sorts=need_sort,
            name="slot" if page_size == 1 else "page",
        )
        self._in_page = np.arange(page_size, dtype=np.int32)
        self._depth = 0

    @property
    def free_slots(self) -> torch.Tensor:
        """What is handed out next, int32: slots, or pages if there are any."""
        return self._on_device(self._units.ready.copy())

    @property
    def release_slots(self) -> torch.Tensor:
        """What was freed since the last merge, int32: slots, or pages."""
        return self._on_device(self._units.returned)

    def clear(self) -> None:
        """Makes all slots free, and leaves any group."""
        self._units.clear()
        self._depth = 0

    def available_size(self) -> int:
        """Returns how many tokens can be allocated now.

        What was freed in a group that is still open does not count.
        """
        return self._units.num_free * self.page_size

    def merge_and_sort_free(self) -> None:
        """Puts freed slots into the list that is handed out next."""
        self._units.merge()

    def alloc(self, need_size: int) -> torch.Tensor | None:
        """Takes slots for tokens.

        Args:
            need_size: How many tokens.

        Returns:
            Their slots, int32 `[need_size]`, or None if too few are free;
            then nothing was taken. With pages, each page's slots in order.

        Raises:
            InvalidParamsError: If the count is negative.
        """
        need_size = at_least(need_size, 0, "need_size")
        num_units = -(-need_size // self.page_size)
        if num_units > self._units.num_free:
            return None
        units = self._units.take(num_units)
        if self.page_size > 1:
            slots = np.add.outer(units * self.page_size, self._in_page)
            units = slots.reshape(-1)[:need_size]
        return self._on_device(units)

    def free(self, indices: torch.Tensor) -> None:
        """Gives slots back; with pages, the pages of these slots.

        Args:
            indices: Slots of any shape, int32 or int64. They are copied. Slots
                of one page in one call, or in one group, free it once.

        Raises:
            SlotRangeError: If a slot is 0 or was never handed out.
            SlotStateError: If a slot, or its page, is free already.
            TensorMismatchError: If they are no tensor of int32 or int64.
        """
        slots = flat_indices(indices, HOST).numpy()
        if len(slots) == 0:
            return
        check_index(slots.min(), self.page_size, self._last_slot, "indices")
        check_index(slots.max(), self.page_size, self._last_slot, "indices")
        units = self._units_of(slots)
        if self._depth == 0:
            self._units.give_back(units)
        else:
            self._units.hold_back(units)

    def _units_of(self, slots: Units) -> Units:
        """Returns what is to be freed, each once."""
        by_page, in_group = self.page_size > 1, self._depth > 0
        units = slots.astype(np.intp)
        if by_page:
            units //= self.page_size
        if len(units) > 1:
            is_first = self._units.is_first(units)
            if by_page:
                units = units[is_first]
            else:
                self._units.raise_for(units[~is_first])
        self._units.check_held(units, or_pending=by_page and in_group)
        return self._units.held(units) if by_page and in_group else units

    def _on_device(self, units: Units) -> torch.Tensor:
        found = torch.from_numpy(units)
        if self.device.type == "cpu":
            return found
        return found.to(self.device, non_blocking=True)

    def free_group_begin(self) -> None:
        """Collects what is freed from now on, until `free_group_end`.

        Groups nest: the outermost end counts.
        """
        self._depth += 1

    def free_group_end(self) -> None:
        """Ends a group; the outermost one frees all that was collected.

        Does nothing if no group is open.
        """
        if self._depth:
            self._depth -= 1
            if self._depth == 0:
                self._units.release_pending()

    @contextmanager
    def free_group(self) -> Iterator[None]:
        """Returns a context that begins a group and ends it, errors or not."""
        self.free_group_begin()
        try:
            yield
        finally:
            self.free_group_end()
