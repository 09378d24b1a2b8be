"""Cached pages in the order in which they may be evicted."""

from collections.abc import Iterator

NUM_PRIORITIES = 101


class EvictionLists:
    """One list of pages per priority; of a list the first page goes first.

    Performance:
        Constant time per page, and one look at each priority to find the first
        page of all.
    """

    def __init__(self) -> None:
        """Starts with empty lists."""
        # Rings; the negative number -1 - priority stands where one begins.
        ends = range(-1, -1 - NUM_PRIORITIES, -1)
        self._next = {end: end for end in ends}
        self._prev = {end: end for end in ends}
        self._priority: dict[int, int] = {}

    def __len__(self) -> int:
        """Returns how many pages are in all lists."""
        return len(self._priority)

    def __contains__(self, page: int) -> bool:
        """Returns whether a page is in a list."""
        return page in self._priority

    def __iter__(self) -> Iterator[int]:
        """Yields the pages, first to be evicted first."""
        for priority in range(NUM_PRIORITIES):
            page = self._next[-1 - priority]
            while page >= 0:
                yield page
                page = self._next[page]

    def priority(self, page: int) -> int:
        """Returns the priority of the list that a page is in."""
        return self._priority[page]

    def append(self, page: int, priority: int) -> None:
        """Puts a page that is in no list at the end of one."""
        end = -1 - priority
        last = self._prev[end]
        self._next[last] = self._prev[end] = page
        self._prev[page], self._next[page] = last, end
        self._priority[page] = priority

    def remove(self, page: int) -> None:
        """Takes a page out of its list."""
        prev, after = self._prev.pop(page), self._next.pop(page)
        self._next[prev], self._prev[after] = after, prev
        del self._priority[page]

    def pop(self) -> int:
        """Takes the page that is to be evicted first.

        Raises:
            IndexError: If every list is empty.
        """
        for page in self:
            self.remove(page)
            return page
        raise IndexError("wanted a page, every list is empty")
