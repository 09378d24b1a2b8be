"""The prefix cache of models that also have recurrent layers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from kvcache.errors import RequestStateError
from kvcache.pools.cached_pages import Pages, Path, Slots
from kvcache.pools.core_prefix_cache import CorePrefixCache, check_counts
from kvcache.pools.prefix_tokens import PrefixTokens, whole_pages
from kvcache.pools.radix_key import RadixKey
from kvcache.pools.radix_node import RadixNode
from kvcache.pools.radix_results import EvictResult, InsertResult, MatchResult
from kvcache.pools.slot_allocator import SlotAllocator
from kvcache.pools.snapshots import Snapshots, TrackPool


class MambaRadixCache(CorePrefixCache):
    """Keeps the slots of computed prefixes, and snapshots of recurrent states.

    A recurrent layer cannot go on from the middle of a sequence without its
    state there. So only prefixes are offered at whose end a snapshot was taken.
    Snapshots have locks and an order of their own, and may go earlier than the
    keys and values of their page, never later.

    Args:
        page_size: Tokens per page.
        token_to_kv_pool_allocator: Takes token slots back; None to keep values
            that belong to nobody.
        mamba_pool: Takes snapshots' slots back, as `GDNPool` does.
        on_node_evict: Called with the id of each page's node that is evicted,
            the tail of a prefix first.
        capacity: Tokens cached at most, the pool's `size` unless given; where
            that is not known, 2**20. Beyond it, `insert` evicts.

    Raises:
        InvalidParamsError: If a size is not positive, or the page size no
            multiple of the pool's.

    Performance:
        Calls take time in proportion to the key or to what they evict, however
        much is cached.
    """

    def __init__(
        self,
        page_size: int = 1,
        token_to_kv_pool_allocator: SlotAllocator | None = None,
        mamba_pool: TrackPool | None = None,
        on_node_evict: Callable[[int], None] | None = None,
        *,
        capacity: int | None = None,
    ) -> None:
        """Starts with nothing cached."""
        pool = token_to_kv_pool_allocator
        super().__init__(page_size, pool, on_node_evict, capacity=capacity)
        self.mamba_pool = mamba_pool
        self._begin_snapshots()

    def reset(self) -> None:
        """Forgets everything, locks too; the caller clears the pools."""
        super().reset()
        self._begin_snapshots()

    def match_prefix(self, key: RadixKey) -> MatchResult:
        """Returns the longest cached prefix of a key that ends in a snapshot.

        It and its snapshot are marked as used. The node has the snapshot's slot
        as `mamba_value`; lock it before the state is read.

        Raises:
            RequestStateError: If the key is not a row of integers of 32 bits
                under a string.
        """
        prefix = whole_pages(key, self.page_size)
        found = self._pages.find(prefix)
        offered = self._snapshots.deepest(found)
        prefix = prefix.first(offered * self.page_size)
        pages = self._match(prefix)
        if offered:
            self._snapshots.use(int(pages[-1]))
        indices = self._indices(pages)
        cached = len(found) * self.page_size
        return MatchResult(
            indices,
            self._node(prefix, pages),
            len(indices),
            cached if cached > len(indices) else None,
        )

    def insert(
        self,
        key: RadixKey,
        value: torch.Tensor | None = None,
        *,
        mamba_value: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> InsertResult:
        """Caches a key with the slots of its tokens, and maybe a snapshot.

        The cache owns the slots of what was not there, as `RadixCache` does,
        and the snapshot, unless `mamba_exist`: then the caller keeps its own.

        Args:
            key: The tokens.
            value: Their slots, integers `[len(key)]`; None for the token ids,
                where there is no pool.
            mamba_value: Slot of a snapshot that was taken after the key's last
                token, an integer or `[1]`.
            **kwargs: Options of other caches, which are not looked at.

        Raises:
            RequestStateError: If the key is not a row of integers of 32 bits
                under a string, the value does not fit it, or there is a
                snapshot and the key is not of whole pages, at least one.
            PageStateError: If a slot is out of range, given twice or the
                cache's already, or not of whole pages of the pool.
            InsufficientPagesError: If what is not locked makes not enough room.
        """
        del kwargs
        slot = self._read_state(key, mamba_value)
        prefix, slots = self._read(key, value)
        if not prefix.length:
            return InsertResult(0, self.root_node)

        def check(there: Path) -> None:
            self._check_foreign(slots[there.num_found :])
            if slot is not None and not self._has_snapshot(there, len(slots)):
                self._snapshots.check_foreign(slot)

        path = self._add(prefix, slots, check)
        exists = self._has_snapshot(path, len(slots))
        if slot is not None and not exists:
            self._snapshots.add(int(path.pages[-1]), slot)
        node = self._node(prefix, path.pages)
        return InsertResult(path.num_found * self.page_size, node, exists)

    def evict(self, num_tokens: int, swa_num_tokens: int = 0) -> EvictResult:
        """Gives up what was used longest ago, and is not locked.

        Whole pages go, with their snapshots, until at least `num_tokens` tokens
        are free or nothing is left; then snapshots alone.

        Args:
            num_tokens: Tokens to free.
            swa_num_tokens: Snapshots to free, those of the pages included.

        Returns:
            Tokens, and snapshots as `mamba_evicted`.

        Raises:
            PageStateError: If a count is negative.
        """
        check_counts((num_tokens, swa_num_tokens))
        before = self._snapshots.num_idle
        num_pages = self._evict_tokens(num_tokens)
        gone = before - self._snapshots.num_idle
        gone += self._snapshots.evict(max(swa_num_tokens - gone, 0))
        return EvictResult(num_pages * self.page_size, mamba_evicted=gone)

    def inc_lock_ref(self, node: RadixNode | None) -> int | None:
        """Keeps a node, what comes before it, and the node's snapshot.

        Raises:
            PageStateError: If the node was evicted, or is another cache's.
            ClaimError: If too many nodes are locked.
        """
        if node is None or node == self.root_node:
            return None
        self._check_node(node)
        self._locks.lock(node)
        has_snapshot = self._snapshots.slots[node.page] >= 0
        if has_snapshot and node.id not in self._locked_states:
            self._snapshots.lock(node.page)
            self._locked_states.add(node.id)
        return None

    def dec_lock_ref(self, node: RadixNode | None, **kwargs: Any) -> None:
        """Takes one `inc_lock_ref` of a node back.

        Raises:
            PageStateError: If the node is not locked.
        """
        del kwargs
        if node is None or node == self.root_node:
            return
        self._check_node(node)
        _, is_last = self._locks.unlock(node)
        if is_last and node.id in self._locked_states:
            self._locked_states.remove(node.id)
            self._snapshots.unlock(node.page)

    def mamba_evictable_size(self) -> int:
        """Returns the snapshots that are not locked."""
        return self._snapshots.num_idle

    def mamba_protected_size(self) -> int:
        """Returns the snapshots that are locked."""
        return self._snapshots.num_locked

    def _begin_snapshots(self) -> None:
        self._snapshots = Snapshots(self._pages.core.num_pages, self.mamba_pool)
        self._locked_states: set[int] = set()

    def _read_state(
        self, key: RadixKey, mamba_value: torch.Tensor | int | None
    ) -> int | None:
        """Returns the slot of a snapshot at a key's end."""
        if mamba_value is None:
            return None
        if not len(key) or len(key) % self.page_size:
            raise RequestStateError(
                f"wanted whole pages of {self.page_size} tokens before a "
                f"snapshot, got {len(key)} tokens"
            )
        state = torch.as_tensor(mamba_value)
        if state.numel() != 1 or state.is_floating_point():
            raise RequestStateError(
                f"wanted one integer as mamba_value, got {state.dtype} of "
                f"shape {tuple(state.shape)}"
            )
        return int(state)

    def _has_snapshot(self, path: Path, num_pages: int) -> bool:
        """Returns whether there is one where a path of some pages ends."""
        if path.num_found < num_pages:
            return False
        return bool(self._snapshots.slots[path.pages[-1]] >= 0)

    def _node(self, prefix: PrefixTokens, pages: Pages) -> RadixNode:
        node = super()._node(prefix, pages)
        if node.is_root or (slot := int(self._snapshots.slots[node.page])) < 0:
            return node
        return replace(node, mamba_value=torch.tensor([slot]))

    def _give_up(self, pages: Pages, slots: Slots) -> None:
        self._snapshots.forget(pages)
        super()._give_up(pages, slots)
