"""Which cached pages still have what sliding windows read."""

import numpy as np
import numpy.typing as npt

from kvcache.pools.cached_pages import Pages
from kvcache.pools.recency import Recency
from kvcache.spec import pages_for


class WindowMarks:
    """Tombstones: pages whose keys and values of sliding windows are gone.

    Of a tombstone those of full attention are still there. A prefix can be
    gone on with if its last `window` tokens, or all if they are fewer, are on
    pages without tombstones.

    Args:
        window: Tokens that a sliding window reads.
        page_size: Tokens per page.
        num_pages: How many pages there are.
    """

    def __init__(self, window: int, page_size: int, num_pages: int) -> None:
        """Starts without tombstones."""
        self.is_tombstone: npt.NDArray[np.bool_] = np.zeros(num_pages, np.bool_)
        self.num_tombstones = 0
        self.num_locked = 0
        """Pages that a locked prefix's window reads."""
        self._window_pages = pages_for(window, page_size)
        self._locks: npt.NDArray[np.int32] = np.zeros(num_pages, np.int32)
        self._windows: dict[int, Pages] = {}
        self._recency = Recency(num_pages)

    def usable(self, pages: Pages) -> int:
        """Returns how many pages of a path can be gone on with."""
        (gone,) = self.is_tombstone[pages].nonzero()
        edges = np.concatenate([[-1], gone, [len(pages)]])
        is_long = np.diff(edges) > self._window_pages
        is_long[0] = True
        return int(edges[is_long.nonzero()[0][-1] + 1])

    def use(self, pages: Pages) -> None:
        """Notes that pages were used."""
        self._recency.touch(pages[~self.is_tombstone[pages]])

    def bury(self, pages: Pages) -> None:
        """Makes pages tombstones."""
        self.is_tombstone[pages] = True
        self.num_tombstones += len(pages)

    def revive(self, pages: Pages) -> None:
        """Makes tombstones pages like others."""
        self.is_tombstone[pages] = False
        self.num_tombstones -= len(pages)

    def forget(self, pages: Pages) -> int:
        """Notes that pages are evicted; returns how many had no tombstone."""
        num_tombstones = int(self.is_tombstone[pages].sum())
        self.is_tombstone[pages] = False
        self.num_tombstones -= num_tombstones
        self._recency.forget(pages)
        return len(pages) - num_tombstones

    def take(self, count: int) -> Pages:
        """Buries the pages that were used longest ago, of a path head first.

        Returns:
            The pages, at most `count`; none that is locked.
        """
        pages = self._recency.take(count, lambda some: self._locks[some] == 0)
        self.bury(pages)
        return pages

    def lock(self, node: int, path: Pages) -> None:
        """Keeps what the window at a node's end reads.

        Args:
            node: The node's id; not locked before.
            path: Its path.
        """
        end = path[max(len(path) - self._window_pages, 0) :]
        pages = end[~self.is_tombstone[end]]
        self.num_locked += int((self._locks[pages] == 0).sum())
        self._locks[pages] += 1
        self._windows[node] = pages

    def locked_from(self, node: int) -> int | None:
        """Returns the page where a locked node's window begins.

        None where the window is longer than the prefix, or has tombstones.
        """
        pages = self._windows[node]
        is_whole = len(pages) == self._window_pages
        return int(pages[0]) if is_whole else None

    def unlock(self, node: int, path: Pages) -> None:
        """Takes a node's lock back; its path counts as used."""
        pages = self._windows.pop(node)
        self._locks[pages] -= 1
        self.num_locked -= int((self._locks[pages] == 0).sum())
        self.use(path)
