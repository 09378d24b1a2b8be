"""What the caches over a core's prefix index have in common."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from kvcache.core.making import make_core
from kvcache.errors import (
    InvalidParamsError,
    PageStateError,
    RequestStateError,
)
from kvcache.pools.base_prefix_cache import BasePrefixCache
from kvcache.pools.cached_pages import CachedPages, Pages, Path, Slots
from kvcache.pools.page_hashes import chain_hashes
from kvcache.pools.path_locks import PathLocks
from kvcache.pools.prefix_tokens import PrefixTokens, whole_pages
from kvcache.pools.radix_key import RadixKey
from kvcache.pools.radix_node import RadixNode
from kvcache.pools.slot_allocator import check_page_size, device_of
from kvcache.pools.slot_owners import SlotOwners
from kvcache.pools.slot_values import check_runs, slots_of
from kvcache.spec import pages_for

DEFAULT_CAPACITY = 1 << 20
"""Tokens that are cached at most where no pool says how many there are."""

MOST_LOCKED = 1 << 16
"""Nodes that can be locked at a time."""


class CorePrefixCache(BasePrefixCache):
    """A view on a core's prefix index: keys in, token slots out.

    The core keeps tokens, prefixes, references and the order of eviction; this
    keeps which slots of the caller's pool each of its pages stands for.

    Args:
        page_size: Tokens per page; keys count up to their last whole page.
        pool: Takes slots back; None to keep values that belong to nobody.
        on_node_evict: Called with the id of each page's node that is evicted,
            the tail of a prefix first.
        capacity: Tokens cached at most, the pool's `size` unless given; where
            that is not known, 2**20. Beyond it, `insert` evicts.

    Raises:
        InvalidParamsError: If a size is not positive, or the page size is no
            multiple of the pool's.
    """

    def __init__(
        self,
        page_size: int,
        pool: Any,
        on_node_evict: Callable[[int], None] | None,
        *,
        capacity: int | None,
    ) -> None:
        """Starts with nothing cached."""
        check_page_size(pool, page_size)
        num_pages = _num_pages(page_size, pool, capacity)
        self.page_size = page_size
        self.pool = pool
        self.on_node_evict = on_node_evict
        self.device = device_of(pool)
        core = make_core(
            num_pages,
            page_size,
            min(num_pages, MOST_LOCKED) + 1,
            enable_prefix_caching=True,
        )
        self._pages = CachedPages(core, self._give_up)
        self._locks = PathLocks(self._pages)
        self._owners = SlotOwners()
        self.root_node = RadixNode(self._pages, 0)

    def reset(self) -> None:
        """Forgets everything, locks too; the caller clears the pool."""
        self._locks.clear()
        self._pages.forget()
        self._owners.clear()

    def evictable_size(self) -> int:
        """Returns the cached tokens that are not locked."""
        return self._pages.num_evictable * self.page_size

    def protected_size(self) -> int:
        """Returns the cached tokens that are locked."""
        return self._pages.num_held * self.page_size

    def total_size(self) -> int:
        """Returns the cached tokens."""
        return self.evictable_size() + self.protected_size()

    def compute_node_hash(self, node: RadixNode) -> list[str]:
        """Returns the chained SHA-256 of each page up to a node's end.

        The namespace is not part of it.

        Raises:
            OverflowError: If a token id is negative.
        """
        if not node.hashes:
            tokens = node.prefix.tokens.tolist()
            node.hashes.extend(chain_hashes(tokens, self.page_size))
        return node.hashes

    def check(self) -> None:
        """Verifies every invariant of the core; takes time, for tests.

        Raises:
            AssertionError: If one is broken.
        """
        self._pages.core.check()

    def _read(
        self, key: RadixKey, value: torch.Tensor | None
    ) -> tuple[PrefixTokens, Slots]:
        """Returns a key's whole pages, and the slots of their tokens."""
        if value is None and self.pool is not None:
            raise RequestStateError(
                "wanted the slots of the tokens, which are the pool's, got None"
            )
        prefix = whole_pages(key, self.page_size)
        slots = slots_of(
            value, prefix, num_tokens=len(key), page_size=self.page_size
        )
        if (unit := getattr(self.pool, "page_size", 1)) > 1:
            check_runs(slots, unit)
        return prefix, slots

    def _check_foreign(self, slots: Slots) -> None:
        """Verifies that slots can be taken in, where a pool has them."""
        if self.pool is not None:
            self._owners.check_foreign(slots)

    def _add(
        self,
        prefix: PrefixTokens,
        slots: Slots,
        check: Callable[[Path], None] | None = None,
    ) -> Path:
        """Caches what is not cached of a prefix, and owns its slots.

        Args:
            prefix: The tokens.
            slots: Their slots.
            check: Called with what is there before anything changes; verifies
                that the other slots can be taken in, unless given.
        """

        def check_new(there: Path) -> None:
            self._check_foreign(slots[there.num_found :])

        path = self._pages.add(prefix, slots, check or check_new)
        if self.pool is not None:
            self._owners.take(slots[path.num_found :])
        return path

    def _match(self, prefix: PrefixTokens) -> Pages:
        """Returns the cached pages of a prefix, and marks them as used."""
        if not prefix.length:
            return np.empty(0, np.int64)
        with self._pages.held(prefix) as (_, path):
            return path.pages

    def _indices(self, pages: Pages) -> torch.Tensor:
        slots = self._pages.slots[pages].reshape(-1)
        return torch.from_numpy(slots.astype(np.int64)).to(self.device)

    def _node(self, prefix: PrefixTokens, pages: Pages) -> RadixNode:
        """Returns the handle of the place where a path ends."""
        if not len(pages):
            return self.root_node
        last = int(pages[-1])
        length = len(pages) * self.page_size
        return RadixNode(
            self._pages, int(self._pages.ids[last]), last, prefix.first(length)
        )

    def _check_node(self, node: RadixNode) -> None:
        """Verifies that a node is this cache's, and still cached.

        Raises:
            PageStateError: If it is not.
        """
        if node.owner is not self._pages:
            raise PageStateError("wanted a node of this cache, got another's")
        if self._pages.ids[node.page] != node.id:
            raise PageStateError(
                f"wanted a node that is cached, node {node.id} was evicted"
            )

    def _evict_tokens(self, num_tokens: int) -> int:
        """Gives up whole pages for some tokens; returns how many pages."""
        wanted = pages_for(num_tokens, self.page_size)
        return len(self._pages.evict(wanted))

    def _give_up(self, pages: Pages, slots: Slots) -> None:
        """Frees the slots of evicted pages, and tells who wants to know."""
        self._free(slots)
        if self.on_node_evict is not None:
            for node in self._pages.ids[pages].tolist():
                self.on_node_evict(node)

    def _free(self, slots: Slots) -> None:
        if self.pool is not None:
            self._owners.give(slots)
            self.pool.free(self._as_tensor(slots))

    def _as_tensor(self, slots: Slots) -> torch.Tensor:
        return torch.from_numpy(slots.reshape(-1)).to(self.device)


def _num_pages(page_size: int, pool: Any, capacity: int | None) -> int:
    """Returns how many pages can be cached.

    A pool's last page counts, even where its size ends inside of it.

    Raises:
        InvalidParamsError: If it is less than one.
    """
    if capacity is None:
        size = int(getattr(pool, "size", DEFAULT_CAPACITY))
        num_pages = pages_for(size, page_size)
    else:
        num_pages = capacity // page_size
    if num_pages < 1:
        raise InvalidParamsError(
            f"wanted a capacity of at least a page of {page_size} tokens, got "
            f"{capacity}"
        )
    return num_pages


def check_counts(counts: Sequence[int]) -> None:
    """Verifies that what is to be evicted is not negative.

    Raises:
        PageStateError: If a count is.
    """
    for count in counts:
        if count < 0:
            raise PageStateError(f"wanted at least 0 to evict, got {count}")
