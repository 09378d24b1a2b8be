"""Which pages are free, who shares the rest, and what goes first."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from kvcache.core.entry import Entry
from kvcache.core.lists import EvictionLists
from kvcache.errors import InsufficientPagesError, PageStateError


class PagePool:
    """Hands out page indices and takes them back.

    A page is held, blank or cached. A held page has at least one reference;
    each `retain` needs its own `release`. A page without references is cached
    if it is indexed, its contents may be wanted again; else it is blank.

    Blank pages are handed out first, oldest first, so that a page keeps its
    contents as long as possible. When none is left, a cached page is evicted:
    of those of the lowest priority the one that was released first. A caller
    that releases a chain's tail before its head, and keeps no head shorter
    than its tails, thereby has the tail evicted before the head, however many
    chains share that head: whoever holds a tail holds its head too, so the
    last reference to a head is never dropped before the last one to its tail.

    Args:
        num_pages: How many pages there are.
        entry_of: Returns what an indexed page holds, None for other pages.
        on_evict: Called with each cached page that is handed out again, before
            it is; makes it unindexed.
        first_page: The lowest page.

    Raises:
        PageStateError: If `num_pages` is negative.

    Performance:
        Constant time per page named in a call, whatever the pool's size.
    """

    def __init__(
        self,
        num_pages: int,
        entry_of: Callable[[int], Entry | None],
        on_evict: Callable[[int], None],
        *,
        first_page: int = 0,
    ) -> None:
        """Starts with every page blank, in ascending order."""
        if num_pages < 0:
            raise PageStateError(f"wanted at least 0 pages, got {num_pages}")
        self.pages = range(first_page, first_page + num_pages)
        self._entry_of = entry_of
        self._on_evict = on_evict
        self._ref_count = [0] * num_pages
        self._blank = deque(self.pages)
        self._cached = EvictionLists()

    def __len__(self) -> int:
        """Returns how many pages exist."""
        return len(self.pages)

    @property
    def num_free(self) -> int:
        """How many pages `allocate` can hand out, cached ones included."""
        return len(self._blank) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """How many free pages have contents that may be wanted again."""
        return len(self._cached)

    def ref_count(self, page: int) -> int:
        """Returns how many references a page has.

        Raises:
            PageStateError: If there is no such page.
        """
        return self._ref_count[self._place(page)]

    def allocate(self, count: int) -> list[int]:
        """Takes `count` free pages, or none at all.

        Returns:
            The pages, each with one reference.

        Raises:
            InsufficientPagesError: If fewer than `count` pages are free.
            PageStateError: If `count` is negative.
        """
        if count < 0:
            raise PageStateError(f"wanted at least 0 pages, got {count}")
        if count > self.num_free:
            raise InsufficientPagesError(wanted=count, free=self.num_free)
        pages = []
        for _ in range(count):
            if self._blank:
                page = self._blank.popleft()
            else:
                page = self._cached.pop()
                self._on_evict(page)
            self._ref_count[self._place(page)] = 1
            pages.append(page)
        return pages

    def retain(self, pages: Sequence[int]) -> None:
        """Adds a reference to each page, which is held or cached.

        Raises:
            PageStateError: If a page is blank or there is no such page.
        """
        for page in pages:
            if not self.ref_count(page) and page not in self._cached:
                raise PageStateError(
                    f"wanted a held or cached page to retain, page {page} is "
                    f"blank"
                )
        for page in pages:
            if page in self._cached:
                self._cached.remove(page)
            self._ref_count[self._place(page)] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Drops a reference to each page, freeing those left with none.

        Args:
            pages: Held pages, in the order in which they may be evicted: the
                tail of a chain before its head.

        Raises:
            PageStateError: If a page has fewer references than are dropped, or
                there is no such page.
        """
        self._check_releasable(pages)
        for page in pages:
            place = self._place(page)
            self._ref_count[place] -= 1
            if self._ref_count[place]:
                continue
            entry = self._entry_of(page)
            if entry is None:
                self._blank.append(page)
            else:
                self._cached.append(page, entry.priority)

    def first_cached(self, count: int) -> list[int]:
        """Returns the cached pages that go first, in that order.

        Raises:
            PageStateError: If `count` is negative.
            InsufficientPagesError: If fewer than `count` pages are cached.
        """
        if count < 0:
            raise PageStateError(f"wanted at least 0 pages, got {count}")
        if count > self.num_cached:
            raise InsufficientPagesError(wanted=count, free=self.num_cached)
        return list(islice(self._cached, count))

    def relist(self, page: int) -> None:
        """Moves a page, if it is cached, to the end of its priority's list."""
        entry = self._entry_of(page)
        if entry is not None and page in self._cached:
            self._cached.remove(page)
            self._cached.append(page, entry.priority)

    def forget(self, pages: Iterable[int]) -> None:
        """Makes pages blank if they are cached; held ones stay held."""
        for page in pages:
            if page in self._cached:
                self._cached.remove(page)
                self._blank.append(page)

    def forget_cached(self) -> list[int]:
        """Makes every cached page blank; held pages stay as they are.

        Returns:
            The pages that were cached, first to be evicted first.
        """
        pages = list(self._cached)
        self.forget(pages)
        return pages

    def cached(self) -> dict[int, int]:
        """Returns the cached pages, first to go first, and their lists."""
        return {page: self._cached.priority(page) for page in self._cached}

    def eviction_order(self) -> list[int]:
        """Returns the free pages, first to be handed out first."""
        return [*self._blank, *self._cached]

    def check(self) -> None:
        """Verifies that each page is in exactly one state.

        Raises:
            AssertionError: If it is not so.

        Performance:
            Time proportional to the pool.
        """
        free = Counter(self.eviction_order())
        for page, refs in zip(self.pages, self._ref_count, strict=True):
            wanted = 0 if refs else 1
            assert refs >= 0, f"page {page} has {refs} references"
            assert free[page] == wanted, (
                f"page {page} with {refs} references is {free[page]} times free"
            )
            entry = self._entry_of(page)
            is_cached = page in self._cached
            assert refs or is_cached == (entry is not None), (
                f"free page {page} is cached: {is_cached}, indexed: "
                f"{entry is not None}"
            )
            if is_cached and entry is not None:
                assert self._cached.priority(page) == entry.priority, (
                    f"page {page} is in list {self._cached.priority(page)}, "
                    f"its priority is {entry.priority}"
                )
        assert len(free) <= len(self), "a page out of range is free"

    def _place(self, page: int) -> int:
        if page not in self.pages:
            raise PageStateError(
                f"wanted a page from {self.pages.start} to "
                f"{self.pages.stop - 1}, got {page}"
            )
        return page - self.pages.start

    def _check_releasable(self, pages: Iterable[int]) -> None:
        for page, drops in Counter(pages).items():
            refs = self.ref_count(page)
            if drops > refs:
                raise PageStateError(
                    f"wanted to drop {drops} references to page {page}, it "
                    f"has {refs}"
                )
