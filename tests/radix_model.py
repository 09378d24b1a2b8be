"""A prefix cache as a dict from prefixes to pages: slow and obvious."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Name = tuple[str | None, tuple[int, ...]]
"""A namespace and all tokens up to a page's end."""


@dataclass
class Page:
    """What is known of one cached page."""

    slots: list[int]
    stamp: tuple[int, int] = (0, 0)
    """When it was let go of last; of a path the tail goes first."""
    window_stamp: tuple[int, int] = (0, 0)
    """When it was used last; of a path the head goes first."""
    locks: int = 0
    window_locks: int = 0
    is_tombstone: bool = False
    node: int | None = None
    """The id of its node, once it was seen."""


@dataclass
class Lock:
    """A locked node."""

    path: list[Name]
    window: list[Name]
    count: int = 1


@dataclass
class RadixModel:
    """What a radix cache must hold, in what order it goes, and who holds it."""

    page_size: int
    capacity: int
    """Pages."""
    window: int | None = None
    pages: dict[Name, Page] = field(default_factory=dict)
    locks: dict[Name, Lock] = field(default_factory=dict)
    now: int = 0

    def names(self, space: str | None, tokens: Sequence[int]) -> list[Name]:
        ends = range(self.page_size, len(tokens) + 1, self.page_size)
        return [(space, tuple(tokens[:end])) for end in ends]

    def found(self, names: list[Name]) -> list[Name]:
        """Returns the names that are cached, up to the first that is not."""
        for place, name in enumerate(names):
            if name not in self.pages:
                return names[:place]
        return names

    def offered(self, names: list[Name]) -> list[Name]:
        """Returns what a match gives: tries all lengths, longest first."""
        found = self.found(names)
        for end in range(len(found), 0, -1):
            if self.window is None:
                return found
            first = end * self.page_size - self.window
            tail = [
                name
                for place, name in enumerate(found[:end])
                if (place + 1) * self.page_size > first
            ]
            if not any(self.pages[name].is_tombstone for name in tail):
                return found[:end]
        return []

    def use(self, path: list[Name], *, windows: bool = True) -> None:
        """Stamps a path: unlocked pages, and windows that are there."""
        self.now += 1
        for depth, name in enumerate(path):
            page = self.pages[name]
            if not page.locks:
                page.stamp = (self.now, -depth)
            if windows and not page.is_tombstone:
                page.window_stamp = (self.now, depth)

    def evict(self, count: int) -> list[Page]:
        """Takes pages out that nobody locks, first to go first."""
        order = sorted(
            (page.stamp, name)
            for name, page in self.pages.items()
            if not page.locks
        )
        return [self.pages.pop(name) for _, name in order[: max(count, 0)]]

    def bury(self, count: int) -> list[Page]:
        """Makes tombstones of pages whose windows nobody locks."""
        order = sorted(
            (page.window_stamp, name)
            for name, page in self.pages.items()
            if not (page.window_locks or page.is_tombstone)
        )
        pages = [self.pages[name] for _, name in order[: max(count, 0)]]
        for page in pages:
            page.is_tombstone = True
        return pages

    def lock(self, name: Name) -> None:
        if name in self.locks:
            self.locks[name].count += 1
            return
        path = self.names(name[0], name[1])
        window: list[Name] = []
        if self.window is not None:
            most = -(-self.window // self.page_size)
            window = [n for n in path[-most:] if not self.pages[n].is_tombstone]
        self.locks[name] = Lock(path, window)
        for held in path:
            self.pages[held].locks += 1
        for held in window:
            self.pages[held].window_locks += 1

    def unlock(self, name: Name) -> None:
        lock = self.locks[name]
        lock.count -= 1
        if lock.count:
            return
        del self.locks[name]
        for held in lock.path:
            self.pages[held].locks -= 1
        for held in lock.window:
            self.pages[held].window_locks -= 1
        self.use(lock.path)

    def room_for(self, new: int, path: Iterable[Name]) -> list[Page] | None:
        """Evicts for new pages, but for a path; None if it cannot be."""
        short = len(self.pages) + new - self.capacity
        for name in path:
            self.pages[name].locks += 1
        free = sum(not page.locks for page in self.pages.values())
        gone = self.evict(short) if short <= free else None
        for name in path:
            self.pages[name].locks -= 1
        return gone

    @property
    def num_evictable(self) -> int:
        return sum(not page.locks for page in self.pages.values())

    @property
    def num_live(self) -> int:
        return sum(not page.is_tombstone for page in self.pages.values())

    @property
    def num_window_locked(self) -> int:
        return sum(page.window_locks > 0 for page in self.pages.values())

    @property
    def slots(self) -> list[int]:
        return [s for page in self.pages.values() for s in page.slots]
