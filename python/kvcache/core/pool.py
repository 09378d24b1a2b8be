"""Which pages are free, who shares the rest, and what goes first."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence

from kvcache.errors import InsufficientPagesError, PageStateError


def _ignore(page: int) -> None:
    """Does nothing with an evicted page."""


class PagePool:
    """Hands out page indices and takes them back.

    A page is held, blank or cached. A held page has at least one reference;
    each `retain` needs its own `release`. A page without references is blank,
    or cached if it was marked with `keep`: its contents may be wanted again.

    Blank pages are handed out first, oldest first, so that a page keeps its
    contents as long as possible. When none is left, the cached page that was
    released first is evicted. A caller that releases a chain's tail before its
    head thereby has the tail evicted before the head, however many chains
    share that head: whoever holds a tail holds its head too, so the last
    reference to a head is never dropped before the last one to its tail.

    Args:
        num_pages: How many pages there are.
        on_evict: Called with each cached page that is handed out again, before
            it is.

    Raises:
        PageStateError: If `num_pages` is negative.

    Performance:
        Constant time per page named in a call, whatever the pool's size.
    """

    def __init__(
        self, num_pages: int, on_evict: Callable[[int], None] = _ignore
    ) -> None:
        """Starts with every page blank, in ascending order."""
        if num_pages < 0:
            raise PageStateError(f"wanted at least 0 pages, got {num_pages}")
        self._on_evict = on_evict
        self._ref_count = [0] * num_pages
        self._is_kept = bytearray(num_pages)
        self._blank = deque(range(num_pages))
        self._cached: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        """Returns how many pages exist."""
        return len(self._ref_count)

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
        self._check_range(page)
        return self._ref_count[page]

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
        blank = min(count, len(self._blank))
        pages = [self._blank.popleft() for _ in range(blank)]
        for _ in range(count - blank):
            page, _none = self._cached.popitem(last=False)
            self._is_kept[page] = 0
            self._on_evict(page)
            pages.append(page)
        for page in pages:
            self._ref_count[page] = 1
        return pages

    def retain(self, pages: Sequence[int]) -> None:
        """Adds a reference to each page, which is held or cached.

        Raises:
            PageStateError: If a page is blank or there is no such page.
        """
        for page in pages:
            self._check_range(page)
            if not (self._ref_count[page] or self._is_kept[page]):
                raise PageStateError(
                    f"wanted a held or cached page to retain, page {page} is "
                    f"blank"
                )
        for page in pages:
            if self._ref_count[page] == 0:
                self._cached.pop(page, None)
            self._ref_count[page] += 1

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
            self._ref_count[page] -= 1
            if self._ref_count[page]:
                continue
            if self._is_kept[page]:
                self._cached[page] = None
            else:
                self._blank.append(page)

    def keep(self, pages: Sequence[int]) -> None:
        """Marks held pages: once free they are cached, not blank.

        Raises:
            PageStateError: If a page is not held.
        """
        for page in pages:
            if self.ref_count(page) == 0:
                raise PageStateError(
                    f"wanted a held page to keep, page {page} is free"
                )
        for page in pages:
            self._is_kept[page] = 1

    def forget_cached(self) -> list[int]:
        """Makes every cached page blank; held pages stay as they are.

        Returns:
            The pages that were cached, first to be evicted first.
        """
        pages = list(self._cached)
        self._cached.clear()
        for page in pages:
            self._is_kept[page] = 0
        self._blank.extend(pages)
        return pages

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
        for page, refs in enumerate(self._ref_count):
            wanted = 0 if refs else 1
            assert refs >= 0, f"page {page} has {refs} references"
            assert free[page] == wanted, (
                f"page {page} with {refs} references is {free[page]} times free"
            )
            if not refs:
                is_cached = page in self._cached
                assert is_cached == bool(self._is_kept[page]), (
                    f"free page {page} is cached: {is_cached}, kept: "
                    f"{bool(self._is_kept[page])}"
                )
        assert len(free) <= len(self), "a page out of range is free"

    def _check_range(self, page: int) -> None:
        if not 0 <= page < len(self._ref_count):
            raise PageStateError(
                f"wanted a page from 0 to {len(self) - 1}, got {page}"
            )

    def _check_releasable(self, pages: Iterable[int]) -> None:
        for page, drops in Counter(pages).items():
            self._check_range(page)
            if drops > self._ref_count[page]:
                raise PageStateError(
                    f"wanted to drop {drops} references to page {page}, it "
                    f"has {self._ref_count[page]}"
                )
