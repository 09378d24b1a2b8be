"""The door that serving loops use: pages in MAX buffers, tables per step."""

from kvcache.manager.inputs import RaggedKVCacheInputs, RaggedKVCacheSymbols
from kvcache.manager.paged import PagedKVCacheManager
from kvcache.manager.pinning import Pin

__all__ = [
    "PagedKVCacheManager",
    "Pin",
    "RaggedKVCacheInputs",
    "RaggedKVCacheSymbols",
]
