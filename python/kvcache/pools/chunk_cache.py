"""The prefix cache of those who want none."""

from typing import Any

import torch

from kvcache.pools.base_prefix_cache import BasePrefixCache
from kvcache.pools.radix_key import RadixKey
from kvcache.pools.radix_node import RadixNode
from kvcache.pools.radix_results import EvictResult, InsertResult, MatchResult
from kvcache.pools.slot_allocator import SlotAllocator, check_page_size


class ChunkCache(BasePrefixCache):
    """Caches nothing: a loop runs with it as with the others.

    Args:
        token_to_kv_pool_allocator: Kept as `pool`; never called.
        device: Where the empty indices are.
        page_size: Tokens per page, as of the other caches.

    Raises:
        InvalidParamsError: If the page size is not positive, or no multiple of
            the pool's.
    """

    def __init__(
        self,
        token_to_kv_pool_allocator: SlotAllocator | None = None,
        device: torch.device | str = "cpu",
        *,
        page_size: int = 1,
    ) -> None:
        """Keeps what it is given."""
        check_page_size(token_to_kv_pool_allocator, page_size)
        self.pool = token_to_kv_pool_allocator
        self.device = torch.device(device)
        self.page_size = page_size

    def reset(self) -> None:
        """Does nothing."""

    def match_prefix(self, key: RadixKey) -> MatchResult:
        """Returns an empty match."""
        del key
        return MatchResult(
            torch.empty(0, dtype=torch.int64, device=self.device)
        )

    def insert(
        self, key: RadixKey, value: torch.Tensor | None = None, **kwargs: Any
    ) -> InsertResult:
        """Keeps nothing: the caller frees the slots."""
        del key, value, kwargs
        return InsertResult()

    def evict(self, num_tokens: int, swa_num_tokens: int = 0) -> EvictResult:
        """Evicts nothing: nothing is there."""
        del num_tokens, swa_num_tokens
        return EvictResult()

    def inc_lock_ref(self, node: RadixNode | None) -> int | None:
        """Locks nothing."""
        del node
        return None

    def dec_lock_ref(self, node: RadixNode | None, **kwargs: Any) -> None:
        """Unlocks nothing."""
        del node, kwargs
