"""Pages in the order of their last use."""

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kvcache.pools.cached_pages import Pages

_SPARE = 4096


class Recency:
    """A queue of pages, told of in runs, least recently used first.

    Of a run the first page goes first. A page that is used again leaves its
    place in the queue empty.

    Args:
        num_pages: How many pages there are.

    Performance:
        Constant time per page that is named, on average.
    """

    def __init__(self, num_pages: int) -> None:
        """Starts with an empty queue."""
        self._used: npt.NDArray[np.int64] = np.zeros(num_pages, np.int64)
        self._runs: deque[tuple[int, Pages]] = deque()
        self._now = 0
        self._size = 0
        self._most = _SPARE

    def touch(self, pages: Pages) -> None:
        """Puts pages at the end."""
        self._now += 1
        self._used[pages] = self._now
        self._runs.append((self._now, pages))
        self._size += len(pages)
        if self._size > self._most:
            self._close_up()

    def forget(self, pages: Pages) -> None:
        """Takes pages out."""
        self._used[pages] = 0

    def take(
        self, count: int, may_go: Callable[[Pages], npt.NDArray[np.bool_]]
    ) -> Pages:
        """Takes the first pages out, at most `count`.

        Pages on the way that may not go are taken out as well; `touch` brings
        them back.

        Args:
            count: How many are wanted.
            may_go: Returns which of some pages may, `[num_pages]`.
        """
        taken = [np.empty(0, np.int64)]
        while count > 0 and self._runs:
            now, pages = self._runs.popleft()
            self._size -= len(pages)
            pages = pages[self._used[pages] == now]
            pages = pages[may_go(pages)]
            taken.append(pages[:count])
            if len(pages) > count:
                self._runs.appendleft((now, pages[count:]))
                self._size += len(pages) - count
            count -= len(taken[-1])
        result = np.concatenate(taken)
        self.forget(result)
        return result

    def _close_up(self) -> None:
        runs = [(now, p[self._used[p] == now]) for now, p in self._runs]
        self._runs = deque((now, p) for now, p in runs if len(p))
        self._size = sum(len(pages) for _, pages in self._runs)
        self._most = 2 * self._size + _SPARE
