"""The prefix cache of pymllm, over the core's prefix index."""

from collections.abc import Callable
from typing import Any

import torch

from kvcache.errors import InvalidParamsError, PageStateError
from kvcache.pools.cached_pages import Pages, Path, Slots
from kvcache.pools.core_prefix_cache import CorePrefixCache, check_counts
from kvcache.pools.prefix_tokens import whole_pages
from kvcache.pools.radix_key import RadixKey
from kvcache.pools.radix_node import RadixNode
from kvcache.pools.radix_results import EvictResult, InsertResult, MatchResult
from kvcache.pools.slot_allocator import SlotAllocator, can_free_swa, one_pool
from kvcache.pools.window_inserts import WindowInsert, settle_duplicates
from kvcache.pools.window_marks import WindowMarks
from kvcache.spec import pages_for


class RadixCache(CorePrefixCache):
    """Keeps the slots of computed prefixes.

    With a sliding window, pages that lose what windows read become tombstones.
    A prefix matches where its last `window` tokens, or all, are on others.

    Args:
        page_size: Tokens per page; keys count up to their last whole page.
        sliding_window_size: Tokens that a sliding window reads; None for none.
        pool: Takes slots back; None to keep values that belong to nobody.
        on_node_evict: Called with the id of each page's node that is evicted,
            the tail of a prefix first.
        token_to_kv_pool_allocator: Another name of `pool`.
        capacity: Tokens cached at most, the pool's `size` unless given; where
            that is not known, 2**20. Beyond it, `insert` evicts.

    Raises:
        InvalidParamsError: If a size is not positive, the page size no
            multiple of the pool's, or there are two pools.

    Performance:
        Calls take time in proportion to the key or to what they evict.
    """

    def __init__(
        self,
        page_size: int = 1,
        sliding_window_size: int | None = None,
        pool: SlotAllocator | None = None,
        on_node_evict: Callable[[int], None] | None = None,
        *,
        token_to_kv_pool_allocator: SlotAllocator | None = None,
        capacity: int | None = None,
    ) -> None:
        """Starts with nothing cached."""
        if sliding_window_size is not None and sliding_window_size < 1:
            raise InvalidParamsError(
                f"wanted a sliding_window_size from 1 on, got "
                f"{sliding_window_size}"
            )
        pool = one_pool(pool, token_to_kv_pool_allocator)
        super().__init__(page_size, pool, on_node_evict, capacity=capacity)
        self.sliding_window_size = sliding_window_size
        self._begin_windows()

    @property
    def supports_swa(self) -> bool:
        """Whether there is a sliding window."""
        return self.sliding_window_size is not None

    def reset(self) -> None:
        """Forgets everything, locks too; the caller clears the pool."""
        super().reset()
        self._begin_windows()

    def match_prefix(self, key: RadixKey) -> MatchResult:
        """Returns the longest cached prefix of a key, and marks it as used.

        Raises:
            RequestStateError: If the key is not a row of integers of 32 bits
                under a string.
        """
        prefix = whole_pages(key, self.page_size)
        marks = self._marks
        if marks is not None:
            usable = marks.usable(self._pages.find(prefix))
            prefix = prefix.first(usable * self.page_size)
        pages = self._match(prefix)
        if marks is not None:
            marks.use(pages)
        indices = self._indices(pages)
        return MatchResult(indices, self._node(prefix, pages), len(indices))

    def insert(
        self,
        key: RadixKey,
        value: torch.Tensor | None = None,
        *,
        prev_prefix_len: int = 0,
        swa_evicted_seqlen: int = 0,
        **kwargs: Any,
    ) -> InsertResult:
        """Caches a key with the slots of its tokens.

        The cache owns the slots of what was not there. Those of the first
        `prefix_len` tokens it does not take: the caller frees its own of them,
        from where its match ended. With a sliding window the call frees them,
        from `prev_prefix_len` on, but for those that replace a tombstone's.
        Slots beyond the last whole page stay the caller's.

        Args:
            key: The tokens.
            value: Their slots, integers `[len(key)]`; None for the token ids,
                where there is no pool.
            prev_prefix_len: With a sliding window, tokens at the beginning
                whose slots are the cache's: what the caller's match gave.
            swa_evicted_seqlen: With a sliding window, tokens at the beginning
                of whose slots the caller has freed the window's share.
            **kwargs: Options of other caches, which are not looked at.

        Raises:
            RequestStateError: If the key is not a row of integers of 32 bits
                under a string, or the value does not fit it.
            PageStateError: If a slot is out of range, given twice or the
                cache's already, or not of whole pages of the pool.
            InsufficientPagesError: If what is not locked makes not enough room.
        """
        del kwargs
        prefix, slots = self._read(key, value)
        if not prefix.length:
            return InsertResult(0, self.root_node)
        if self._marks is None:
            path = self._add(prefix, slots)
        else:
            path = self._insert_windowed(
                WindowInsert(
                    prefix,
                    slots,
                    page_size=self.page_size,
                    prev_prefix_len=prev_prefix_len,
                    swa_evicted_seqlen=swa_evicted_seqlen,
                ),
                self._marks,
            )
        node = self._node(prefix, path.pages)
        return InsertResult(path.num_found * self.page_size, node)

    def evict(self, num_tokens: int, swa_num_tokens: int = 0) -> EvictResult:
        """Gives up what was used longest ago, and is not locked.

        Whole pages go, the tail of a prefix before its head, until at least
        `num_tokens` tokens are free or nothing is left. Then further pages
        become tombstones until the windows' share of `swa_num_tokens` is free;
        where the pool cannot free that share by itself, whole pages go.

        Args:
            num_tokens: Tokens to free.
            swa_num_tokens: Tokens to free the windows' share of.

        Raises:
            PageStateError: If one is negative.
        """
        check_counts((num_tokens, swa_num_tokens))
        live = self._num_live
        num_pages = self._evict_tokens(num_tokens)
        if self._marks is not None:
            most = live - pages_for(swa_num_tokens, self.page_size)
            num_pages += self._evict_windows(max(most, 0), self._marks)
        swa_pages = live - self._num_live
        return EvictResult(
            num_pages * self.page_size, swa_pages * self.page_size
        )

    def inc_lock_ref(self, node: RadixNode | None) -> int | None:
        """Keeps a node and what comes before it from being evicted.

        Returns:
            With a sliding window, the id of the node where the locked window
            begins, for `dec_lock_ref`; None where it is shorter.

        Raises:
            PageStateError: If the node was evicted, or is another cache's.
            ClaimError: If too many nodes are locked.
        """
        if node is None or node == self.root_node:
            return None
        self._check_node(node)
        lock, is_new = self._locks.lock(node)
        if self._marks is None:
            return None
        if is_new:
            self._marks.lock(node.id, lock.pages)
        return self._boundary(node, self._marks)

    def dec_lock_ref(
        self,
        node: RadixNode | None,
        swa_boundary_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes one `inc_lock_ref` of a node back.

        Args:
            node: The node; None and the root are never locked.
            swa_boundary_id: What `inc_lock_ref` gave; None to leave it out.
            **kwargs: Options of other caches, which are not looked at.

        Raises:
            PageStateError: If the node is not locked, or with another boundary.
        """
        del kwargs
        if node is None or node == self.root_node:
            return
        self._check_node(node)
        self._locks.find(node)
        if self._marks is None:
            self._locks.unlock(node)
            return
        boundary = self._boundary(node, self._marks)
        if swa_boundary_id not in (None, boundary):
            raise PageStateError(
                f"wanted the boundary {boundary} that the node was locked "
                f"with, got {swa_boundary_id}"
            )
        lock, is_last = self._locks.unlock(node)
        if is_last:
            self._marks.unlock(node.id, lock.pages)

    def swa_evictable_size(self) -> int:
        """Returns tokens with windows' keys and values that may go."""
        if self._marks is None:
            return 0
        return (self._num_live - self._marks.num_locked) * self.page_size

    def swa_protected_size(self) -> int:
        """Returns tokens with windows' keys and values that are locked."""
        if self._marks is None:
            return 0
        return self._marks.num_locked * self.page_size

    @property
    def _num_live(self) -> int:
        """Cached pages that are no tombstones; 0 without a window."""
        if self._marks is None:
            return 0
        num_pages = self._pages.num_evictable + self._pages.num_held
        return num_pages - self._marks.num_tombstones

    def _begin_windows(self) -> None:
        self._marks = None
        if self.sliding_window_size is not None:
            self._marks = WindowMarks(
                self.sliding_window_size,
                self.page_size,
                self._pages.core.num_pages,
            )

    def _insert_windowed(self, asked: WindowInsert, marks: WindowMarks) -> Path:
        def check(there: Path) -> None:
            own = self._pages.slots[there.pages]
            self._check_foreign(asked.foreign(own))

        path = self._add(asked.prefix, asked.slots, check)
        new = path.pages[path.num_found :]
        marks.bury(new[: max(asked.num_gone - path.num_found, 0)])
        freed = settle_duplicates(
            asked,
            path,
            slots=self._pages.slots,
            marks=marks,
            paths_through=self._locks.paths_through,
        )
        if self.pool is not None:
            self._owners.take(asked.slots[: path.num_found][freed.is_taken])
        if freed.slots.size:
            self._free(freed.slots)
        marks.use(path.pages)
        return path

    def _evict_windows(self, most_live: int, marks: WindowMarks) -> int:
        """Leaves few enough pages with windows; returns how many it evicts."""
        num_pages = 0
        if can_free_swa(self.pool):
            buried = marks.take(max(self._num_live - most_live, 0))
            if self.pool is not None and len(buried):
                slots = self._pages.slots[buried]
                self.pool.free_swa(self._as_tensor(slots))
            return num_pages
        while self._num_live > most_live and self._pages.num_evictable:
            num_pages += len(self._pages.evict(self._num_live - most_live))
        return num_pages

    def _boundary(self, node: RadixNode, marks: WindowMarks) -> int | None:
        page = marks.locked_from(node.id)
        return None if page is None else int(self._pages.ids[page])

    def _give_up(self, pages: Pages, slots: Slots) -> None:
        if self._marks is not None:
            self._marks.forget(pages)
        super()._give_up(pages, slots)
