"""Pages of the device and of the host, and what moves between them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvcache.core.ghosts import Ghosts
from kvcache.core.pool import PagePool
from kvcache.core.prefix import PrefixIndex
from kvcache.core.retention import RetentionClock
from kvcache.core.values import Move


class Tiers:
    """A pool of device pages over an optional pool of host pages.

    What is evicted from the device goes to the host, as long as there is room
    or something else to evict. Host pages follow those of the device: outside
    of a call none is held, they are blank or cached. Contents do not move
    here: `moves` says what has to.

    Args:
        num_pages: Pages of the device.
        num_host_pages: Pages of the host.
        index: What pages hold.
        clock: Told of what moves.
    """

    def __init__(
        self,
        num_pages: int,
        num_host_pages: int,
        index: PrefixIndex,
        clock: RetentionClock,
    ) -> None:
        """Starts with every page blank."""
        self.ghosts = Ghosts()
        self.num_evicted = 0
        self.counts = dict.fromkeys(Move, 0)
        self.device = PagePool(num_pages, index.get, self._make_room)
        self.host = PagePool(
            num_host_pages, index.get, self._lose, first_page=num_pages
        )
        self._index = index
        self._clock = clock
        self._moves: list[tuple[Move, int, int]] = []

    def pool_of(self, page: int) -> PagePool:
        """Returns the pool that a page belongs to."""
        return self.host if self.is_host(page) else self.device

    def is_host(self, page: int) -> bool:
        """Returns whether a page is one of the host's."""
        return page in self.host.pages

    def retain(self, pages: Sequence[int]) -> None:
        """Adds a reference to each page, of whichever tier."""
        for page in pages:
            self.pool_of(page).retain([page])

    def copy(self, page: int, copy: int) -> None:
        """Asks for a device page's contents to be copied to another."""
        self._ask(Move.COPY, page, copy)

    def onload(self, page: int) -> int:
        """Moves a held host page, with all its references, to the device.

        Returns:
            The device page, which is not in any row yet.

        Raises:
            InsufficientPagesError: If every device page is held.
        """
        (heir,) = self.device.allocate(1)
        refs = self.host.ref_count(page)
        self._clock.watch(self._index.move(page, heir))
        self.device.retain([heir] * (refs - 1))
        self.host.release([page] * refs)
        self._ask(Move.ONLOAD, page, heir)
        return heir

    def recall(self, page: int, heir: int) -> None:
        """Puts a held device page of the same contents in a host page's place.

        Nothing needs to be moved; the host page becomes blank.
        """
        self._clock.watch(self._index.move(page, heir))
        self.host.forget([page])

    def relist(self, pages: Sequence[int]) -> None:
        """Moves cached pages to the lists of their new priorities."""
        for page in pages:
            self.pool_of(page).relist(page)

    def forget(self, pages: Sequence[int]) -> None:
        """Makes pages unfindable; those that no one holds become blank."""
        for page in pages:
            self._index.remove(page)
            self.pool_of(page).forget([page])

    def forget_cached(self) -> None:
        """Makes every cached page of both tiers blank."""
        for pool in (self.device, self.host):
            for page in pool.forget_cached():
                self._index.remove(page)

    def evict(self, num_pages: int) -> list[int]:
        """Makes device pages blank, and host pages that followed them.

        Returns:
            The device pages, in the order in which they went.

        Raises:
            PageStateError: If `num_pages` is negative.
            InsufficientPagesError: If fewer device pages are cached.
        """
        pages = self.device.first_cached(num_pages)
        for page in pages:
            followers = self._index.subtree(page)
            followers.remove(page)
            for lost in (*followers, page):
                self._lose(lost)
            self.host.forget(followers)
        self.device.forget(pages)
        return pages

    def take_moves(self) -> npt.NDArray[np.uint32]:
        """Returns what has to move, `[num_moves, 3]`, and forgets it."""
        moves = np.array(self._moves, np.uint32).reshape(-1, 3)
        self._moves.clear()
        return moves

    def _ask(self, kind: Move, source: int, destination: int) -> None:
        self.counts[kind] += 1
        self._moves.append((kind, source, destination))

    def _make_room(self, page: int) -> None:
        """Moves what a device page holds to the host, or loses it."""
        if not self.host.num_free:
            self._lose(page)
            return
        (heir,) = self.host.allocate(1)
        self._clock.watch(self._index.move(page, heir))
        self.host.release([heir])
        self._ask(Move.OFFLOAD, page, heir)

    def _lose(self, page: int) -> None:
        entry = self._index.remove(page)
        self.ghosts.note(entry.key.digest, self._clock.now)
        self.num_evicted += 1
