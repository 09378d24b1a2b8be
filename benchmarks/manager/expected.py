"""The hits that a least-recently-used cache has, worked out page by page.

A plain model of the policy that all sides state, with keys in place of tokens.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence

from benchmarks.manager.sides import Policy

Key = Hashable
"""What a page holds, everything before it included."""


class CachedPages:
    """Pages that are blank, cached or held, and who is next to be evicted.

    Args:
        num_pages: Pages that there are, all blank.
        policy: What goes before what.
    """

    def __init__(self, num_pages: int, policy: Policy) -> None:
        """Starts with every page blank."""
        self._policy = policy
        self._num_blank = num_pages
        # Free pages by their key, or by a number if they are blank; a
        # policy of blanks first counts these apart.
        self._free: OrderedDict[Key, None] = OrderedDict()
        self._holders: dict[Key, int] = {}
        self._serial = 0

    def serve(self, requests: Sequence[Sequence[Key]]) -> int:
        """Admits, commits and releases one pass; returns its hits in pages."""
        if self._policy.hits_first:
            hits = [self._take_hits(keys) for keys in requests]
            for keys, hit in zip(requests, hits, strict=True):
                self._evict(len(keys) - hit)
        else:
            hits = []
            for keys in requests:
                hits.append(self._take_hits(keys))
                self._evict(len(keys) - hits[-1])
        for keys, hit in zip(requests, hits, strict=True):
            self._commit(keys[hit:])
        for keys in requests:
            self._release(reversed(keys))
        return sum(hits)

    def _take_hits(self, keys: Sequence[Key]) -> int:
        """Holds the longest run of keys that are cached."""
        hit = 0
        while hit < len(keys) and keys[hit] in self._holders:
            self._hold(keys[hit])
            hit += 1
        return hit

    def _hold(self, key: Key) -> None:
        if self._holders[key] == 0:
            del self._free[key]
        self._holders[key] += 1

    def _evict(self, num_pages: int) -> None:
        """Takes pages, blank ones or those that were free for longest."""
        for _ in range(num_pages):
            if self._num_blank:
                self._num_blank -= 1
                continue
            key, _ = self._free.popitem(last=False)
            self._holders.pop(key, None)

    def _commit(self, keys: Iterable[Key]) -> None:
        """Caches keys; a page whose key is cached already becomes blank."""
        for key in keys:
            if key not in self._holders:
                self._holders[key] = 1
                continue
            self._hold(key)
            if self._policy.blank_first:
                self._num_blank += 1
            else:
                self._serial += 1
                self._free["blank", self._serial] = None

    def _release(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._holders[key] -= 1
            if self._holders[key] == 0:
                self._free[key] = None
