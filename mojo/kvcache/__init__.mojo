"""Paged KV cache for MAX graphs: the page pool's views and its kernels."""

from .cache import PagedKVCache
from .collection import PagedKVCacheCollection
from .layout import PageLayout
