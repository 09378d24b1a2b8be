"""Who keeps which paths of a prefix tree from being evicted."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvcache.errors import PageStateError
from kvcache.pools.cached_pages import CachedPages, Pages
from kvcache.pools.radix_node import RadixNode


@dataclass(slots=True, eq=False)
class PathLock:
    """One locked node, however often it is locked."""

    seq: int
    """The core's sequence that holds the path."""
    pages: Pages
    """The path, from the root on."""
    count: int = 0


class PathLocks:
    """Holds the paths of locked nodes through sequences of the core.

    Args:
        pages: The tree.

    Performance:
        A node's first lock and its last unlock take time in proportion to its
        path, all others none.
    """

    def __init__(self, pages: CachedPages) -> None:
        """Starts without locks."""
        self._pages = pages
        self._locks: dict[int, PathLock] = {}
        self.paths_through: npt.NDArray[np.int32] = np.zeros(
            pages.core.num_pages, np.int32
        )
        """Locked paths that each page is part of, `[num_pages]`."""

    def lock(self, node: RadixNode) -> tuple[PathLock, bool]:
        """Locks a node that is cached once more.

        Returns:
            The lock, and whether it is new.

        Raises:
            ClaimError: If too many nodes are locked.
        """
        lock = self._locks.get(node.id)
        if lock is not None:
            lock.count += 1
            return lock, False
        seq, path = self._pages.hold(node.prefix)
        lock = self._locks[node.id] = PathLock(seq, path.pages, 1)
        self.paths_through[path.pages] += 1
        return lock, True

    def find(self, node: RadixNode) -> PathLock:
        """Returns a node's lock.

        Raises:
            PageStateError: If it has none.
        """
        lock = self._locks.get(node.id)
        if lock is None:
            raise PageStateError(
                f"wanted a locked node, node {node.id} is not locked"
            )
        return lock

    def unlock(self, node: RadixNode) -> tuple[PathLock, bool]:
        """Takes one lock of a node back.

        Returns:
            The lock, and whether it was the last.

        Raises:
            PageStateError: If the node is not locked.
        """
        lock = self.find(node)
        lock.count -= 1
        if lock.count:
            return lock, False
        del self._locks[node.id]
        self.paths_through[lock.pages] -= 1
        self._pages.core.release(lock.seq)
        return lock, True

    def clear(self) -> None:
        """Takes all locks back."""
        for lock in self._locks.values():
            self._pages.core.release(lock.seq)
        self._locks.clear()
        self.paths_through[:] = 0
