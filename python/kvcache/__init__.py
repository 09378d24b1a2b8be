"""A paged KV cache for LLM serving loops.

Importing this package loads nothing else: each name below is imported from its
module when it is first used, and with it MAX only if that name needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvcache.errors import InsufficientPagesError, KVCacheError
    from kvcache.manager import PagedKVCacheManager, RaggedKVCacheInputs
    from kvcache.metrics import KVCacheMetrics
    from kvcache.request import Request, RequestContext
    from kvcache.spec import KVCacheParams, KVCacheStrategy

__all__ = [
    "InsufficientPagesError",
    "KVCacheError",
    "KVCacheMetrics",
    "KVCacheParams",
    "KVCacheStrategy",
    "PagedKVCacheManager",
    "RaggedKVCacheInputs",
    "Request",
    "RequestContext",
]

_HOMES = {
    "InsufficientPagesError": "kvcache.errors",
    "KVCacheError": "kvcache.errors",
    "KVCacheMetrics": "kvcache.metrics",
    "KVCacheParams": "kvcache.spec",
    "KVCacheStrategy": "kvcache.spec",
    "PagedKVCacheManager": "kvcache.manager",
    "RaggedKVCacheInputs": "kvcache.manager",
    "Request": "kvcache.request",
    "RequestContext": "kvcache.request",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kvcache' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names along with those already loaded."""
    return sorted({*globals(), *__all__})
