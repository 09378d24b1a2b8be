"""Token slots over torch tensors, and prefixes of them, as pymllm names them.

Needs the extra `kvcache[torch]`. Importing this package does not load torch:
each name is imported from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kvcache.errors import MissingPackageError

if TYPE_CHECKING:
    from kvcache.pools.allocator import TokenToKVPoolAllocator
    from kvcache.pools.base_prefix_cache import BasePrefixCache
    from kvcache.pools.chunk_cache import ChunkCache
    from kvcache.pools.gdn_pool import GDNPool
    from kvcache.pools.hybrid_cache import MambaRadixCache
    from kvcache.pools.kv_pool import KVPool
    from kvcache.pools.making import (
        make_full_attention_net_mem_pool,
        make_req_to_token_pool,
    )
    from kvcache.pools.page_hashes import (
        hash_bytes,
        hash_to_int64,
        hash_token_ids,
    )
    from kvcache.pools.radix_cache import RadixCache
    from kvcache.pools.radix_key import RadixKey
    from kvcache.pools.radix_node import RadixNode
    from kvcache.pools.radix_results import (
        EvictResult,
        InsertResult,
        MatchResult,
    )
    from kvcache.pools.req_to_token_pool import ReqToTokenPool

__all__ = [
    "BasePrefixCache",
    "ChunkCache",
    "EvictResult",
    "GDNPool",
    "InsertResult",
    "KVPool",
    "MambaRadixCache",
    "MatchResult",
    "RadixCache",
    "RadixKey",
    "RadixNode",
    "ReqToTokenPool",
    "TokenToKVPoolAllocator",
    "hash_bytes",
    "hash_to_int64",
    "hash_token_ids",
    "make_full_attention_net_mem_pool",
    "make_req_to_token_pool",
]

_HOMES = {
    "BasePrefixCache": "kvcache.pools.base_prefix_cache",
    "ChunkCache": "kvcache.pools.chunk_cache",
    "EvictResult": "kvcache.pools.radix_results",
    "GDNPool": "kvcache.pools.gdn_pool",
    "InsertResult": "kvcache.pools.radix_results",
    "KVPool": "kvcache.pools.kv_pool",
    "MambaRadixCache": "kvcache.pools.hybrid_cache",
    "MatchResult": "kvcache.pools.radix_results",
    "RadixCache": "kvcache.pools.radix_cache",
    "RadixKey": "kvcache.pools.radix_key",
    "RadixNode": "kvcache.pools.radix_node",
    "ReqToTokenPool": "kvcache.pools.req_to_token_pool",
    "TokenToKVPoolAllocator": "kvcache.pools.allocator",
    "hash_bytes": "kvcache.pools.page_hashes",
    "hash_to_int64": "kvcache.pools.page_hashes",
    "hash_token_ids": "kvcache.pools.page_hashes",
    "make_full_attention_net_mem_pool": "kvcache.pools.making",
    "make_req_to_token_pool": "kvcache.pools.making",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingPackageError(
            "wanted the package `torch`, which is not installed: it comes "
            "with the extra `kvcache[torch]`"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names along with those already loaded."""
    return sorted({*globals(), *__all__})
