"""Token slots of a pool over torch tensors, and prefixes of them."""

from kvcache.pools.base_prefix_cache import BasePrefixCache
from kvcache.pools.chunk_cache import ChunkCache
from kvcache.pools.hybrid_cache import MambaRadixCache
from kvcache.pools.page_hashes import (
    hash_bytes,
    hash_to_int64,
    hash_token_ids,
)
from kvcache.pools.radix_cache import RadixCache
from kvcache.pools.radix_key import RadixKey
from kvcache.pools.radix_node import RadixNode
from kvcache.pools.radix_results import EvictResult, InsertResult, MatchResult

__all__ = [
    "BasePrefixCache",
    "ChunkCache",
    "EvictResult",
    "InsertResult",
    "MambaRadixCache",
    "MatchResult",
    "RadixCache",
    "RadixKey",
    "RadixNode",
    "hash_bytes",
    "hash_to_int64",
    "hash_token_ids",
]
