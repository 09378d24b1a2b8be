"""The door that serving loops use: pages in MAX buffers, tables per step."""

from kvcache.manager.explaining import PageOutcome, PageReport
from kvcache.manager.inputs import RaggedKVCacheInputs, RaggedKVCacheSymbols
from kvcache.manager.paged import PagedKVCacheManager
from kvcache.manager.pinning import Pin

__all__ = [
    "PageOutcome",
    "PageReport",
    "PagedKVCacheManager",
    "Pin",
    "RaggedKVCacheInputs",
    "RaggedKVCacheSymbols",
]
