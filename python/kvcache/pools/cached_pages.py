"""A core's pages, and the token slots that each of them stands for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.core.interface import Batch, CacheCore
from kvcache.errors import InsufficientPagesError
from kvcache.pools.prefix_tokens import PrefixTokens

Pages: TypeAlias = npt.NDArray[np.int64]
"""Pages of the core, `[num_pages]`."""
Slots: TypeAlias = npt.NDArray[np.int32]
"""Token slots of pages, `[num_pages, page_size]`."""


@dataclass(frozen=True, slots=True)
class Path:
    """The pages of a prefix from the root on."""

    pages: Pages
    num_found: int
    """How many of them were cached before."""


class CachedPages:
    """The prefix tree: a core's index, whose pages stand for slots.

    The core knows tokens, prefixes, references and the order of eviction; here
    is only what it does not: the slots of each page, and a number that names
    a page's contents for as long as they are cached.

    Args:
        core: Caches prefixes; has no tier below, and no other user.
        on_evict: Called with pages and their slots once they are given up,
            while `ids` still names their contents.
    """

    def __init__(
        self, core: CacheCore, on_evict: Callable[[Pages, Slots], None]
    ) -> None:
        """Starts with nothing cached."""
        self.core = core
        self.page_size = core.page_size
        self.slots: Slots = np.zeros((core.num_pages, core.page_size), np.int32)
        self.ids: npt.NDArray[np.int64] = np.zeros(core.num_pages, np.int64)
        """Names each page's contents; 0 where nothing is cached."""
        self._num_named = 0
        self._on_evict = on_evict

    @property
    def num_evictable(self) -> int:
        """Cached pages that nobody holds."""
        return self.core.num_cached

    @property
    def num_held(self) -> int:
        """Cached pages that somebody holds."""
        return self.core.num_pages - self.core.num_free

    def find(self, prefix: PrefixTokens) -> Pages:
        """Returns the cached pages of a prefix; marks nothing as used."""
        found = self.core.probe(prefix.namespace, prefix.tokens)
        return found.pages.astype(np.int64)

    @contextmanager
    def held(self, prefix: PrefixTokens) -> Iterator[tuple[int, Path]]:
        """Holds the cached pages of a prefix; afterwards they are used last.

        Yields:
            The core's sequence that holds them, and the pages.
        """
        seq, path = self.hold(prefix)
        try:
            yield seq, path
        finally:
            self.core.release(seq)

    def hold(self, prefix: PrefixTokens) -> tuple[int, Path]:
        """Holds the cached pages of a prefix until the sequence is released.

        Raises:
            ClaimError: If every sequence of the core is taken.
        """
        seq = self.core.claim(prefix.namespace)
        try:
            self.core.adopt(_window(seq, prefix, 0))
        except BaseException:
            self.core.release(seq)
            raise
        pages = self.core.pages(seq).astype(np.int64)
        return seq, Path(pages, len(pages))

    def add(
        self,
        prefix: PrefixTokens,
        slots: Slots,
        check: Callable[[Path], None],
    ) -> Path:
        """Caches what is not cached of a prefix.

        What was used longest ago goes where there is no room.

        Args:
            prefix: The tokens.
            slots: The slots of all of them.
            check: Called with the pages that are there before anything changes;
                may raise.

        Raises:
            InsufficientPagesError: If what is not locked makes not enough room.
            ClaimError: If every sequence of the core is taken.
        """
        with self.held(prefix) as (seq, there):
            check(there)
            begin = there.num_found * self.page_size
            if begin < prefix.length:
                self._make_room(len(slots) - there.num_found)
                self.core.reserve(_window(seq, prefix, begin), num_steps=1)
                self.core.commit(_window(seq, prefix, prefix.length))
            pages = self.core.pages(seq).astype(np.int64)
            self._name(pages[there.num_found :], slots[there.num_found :])
            return Path(pages, there.num_found)

    def evict(self, num_pages: int) -> Pages:
        """Gives up pages that nobody holds, as many as there are.

        Returns:
            The pages, in the order in which they went.
        """
        count = min(num_pages, self.num_evictable)
        pages = self.core.evict(count).astype(np.int64)
        if count:
            try:
                self._on_evict(pages, self.slots[pages])
            finally:
                self.ids[pages] = 0
        return pages

    def forget(self) -> None:
        """Forgets what nobody holds, and all names."""
        self.core.forget_cached()
        self.ids[:] = 0

    def _name(self, pages: Pages, slots: Slots) -> None:
        self.slots[pages] = slots
        first = self._num_named + 1
        self._num_named += len(pages)
        self.ids[pages] = np.arange(first, first + len(pages))

    def _make_room(self, num_new: int) -> None:
        if num_new > self.core.num_free:
            raise InsufficientPagesError(
                wanted=num_new, free=self.core.num_free
            )
        num_blank = self.core.num_free - self.core.num_cached
        if num_new > num_blank:
            self.evict(num_new - num_blank)


def _window(seq: int, prefix: PrefixTokens, processed: int) -> Batch:
    """Returns a batch of one: what comes after some tokens of a prefix."""
    return Batch(
        np.array([seq]),
        np.array([processed]),
        np.array([max(prefix.length - processed, 1)]),
        [prefix.ids],
    )
