"""Which pages of a prefix tree end where a recurrent snapshot was taken."""

from collections import OrderedDict
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kvcache.errors import PageStateError
from kvcache.pools.cached_pages import Pages


class TrackPool(Protocol):
    """Takes the slots of recurrent snapshots back."""

    def free_track_slot(self, slot: int) -> object:
        """Takes one slot back."""


class Snapshots:
    """At most one snapshot a page, and the order in which they go.

    Args:
        num_pages: How many pages there are.
        pool: Takes slots back; None where they belong to nobody.

    Performance:
        Constant time per snapshot that is named or goes.
    """

    def __init__(self, num_pages: int, pool: TrackPool | None) -> None:
        """Starts without snapshots."""
        self.slots: npt.NDArray[np.int64] = np.full(num_pages, -1, np.int64)
        """Slot of each page's snapshot; -1 without one."""
        self._pool = pool
        self._owned: set[int] = set()
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._locks: dict[int, int] = {}

    @property
    def num_idle(self) -> int:
        """Snapshots that may go."""
        return len(self._idle)

    @property
    def num_locked(self) -> int:
        """Snapshots that are locked."""
        return len(self._locks)

    def deepest(self, pages: Pages) -> int:
        """Returns how many pages of a path are up to its last snapshot."""
        (places,) = (self.slots[pages] >= 0).nonzero()
        return int(places[-1]) + 1 if len(places) else 0

    def check_foreign(self, slot: int) -> None:
        """Verifies that a slot can be a snapshot's.

        Raises:
            PageStateError: If it is negative, or another snapshot's.
        """
        if slot < 0:
            raise PageStateError(f"wanted a state slot from 0 on, got {slot}")
        if slot in self._owned:
            raise PageStateError(
                f"wanted a state slot that the cache does not have, got {slot}"
            )

    def add(self, page: int, slot: int) -> None:
        """Notes a snapshot at the end of a page that has none."""
        self.slots[page] = slot
        self._owned.add(slot)
        self._idle[page] = None

    def use(self, page: int) -> None:
        """Lets a page's snapshot be the last to go."""
        if page in self._idle:
            self._idle.move_to_end(page)

    def lock(self, page: int) -> None:
        """Keeps a page's snapshot."""
        self._idle.pop(page, None)
        self._locks[page] = self._locks.get(page, 0) + 1

    def unlock(self, page: int) -> None:
        """Takes a lock back; without locks, the snapshot is the last to go."""
        self._locks[page] -= 1
        if not self._locks[page]:
            del self._locks[page]
            self._idle[page] = None

    def evict(self, count: int) -> int:
        """Frees the snapshots that were used longest ago, none locked.

        Returns:
            How many there were, at most `count`.
        """
        count = min(count, len(self._idle))
        for _ in range(count):
            page, _ = self._idle.popitem(last=False)
            self._free(page)
        return count

    def forget(self, pages: Pages) -> None:
        """Frees the snapshots of evicted pages."""
        for page in pages[self.slots[pages] >= 0].tolist():
            del self._idle[page]
            self._free(page)

    def _free(self, page: int) -> None:
        slot = int(self.slots[page])
        self.slots[page] = -1
        self._owned.remove(slot)
        if self._pool is not None:
            self._pool.free_track_slot(slot)
