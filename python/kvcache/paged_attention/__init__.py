"""A paged cache sized from memory, with a view for each layer.

The classes have the names and the arguments of EasyDeL's paged attention
cache, over arrays of MAX, torch or NumPy.
"""

from kvcache.paged_attention.cache import PagedAttentionCache
from kvcache.paged_attention.memory import DeviceMemory
from kvcache.paged_attention.mesh import Mesh
from kvcache.paged_attention.metadata import PagedAttentionCacheMetaData
from kvcache.paged_attention.page_manager import PagedAttentionCacheManager
from kvcache.paged_attention.quantizer import PageQuantizer
from kvcache.paged_attention.sharding import (
    NamedSharding,
    PartitionAxis,
    PartitionSpec,
)
from kvcache.paged_attention.step import (
    PagedAttentionMetadata,
    StepMode,
    absent,
)
from kvcache.paged_attention.view import PagedAttentionCacheView

__all__ = [
    "PagedAttentionCache",
    "PagedAttentionCacheManager",
    "PagedAttentionCacheMetaData",
    "PagedAttentionCacheView",
    "PagedAttentionMetadata",
    "DeviceMemory",
    "Mesh",
    "NamedSharding",
    "PageQuantizer",
    "PartitionAxis",
    "PartitionSpec",
    "StepMode",
    "absent",
]
