"""Token pools over torch tensors, with the names of pymllm's `mem_cache`.

Needs the extra `kvcache[torch]`. Importing this package does not load torch:
each name is imported from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kvcache.errors import MissingPackageError

if TYPE_CHECKING:
    from kvcache.pools.allocator import TokenToKVPoolAllocator
    from kvcache.pools.gdn_pool import GDNPool
    from kvcache.pools.kv_pool import KVPool
    from kvcache.pools.making import (
        make_full_attention_net_mem_pool,
        make_req_to_token_pool,
    )
    from kvcache.pools.req_to_token_pool import ReqToTokenPool

__all__ = [
    "GDNPool",
    "KVPool",
    "ReqToTokenPool",
    "TokenToKVPoolAllocator",
    "make_full_attention_net_mem_pool",
    "make_req_to_token_pool",
]

_HOMES = {
    "GDNPool": "kvcache.pools.gdn_pool",
    "KVPool": "kvcache.pools.kv_pool",
    "ReqToTokenPool": "kvcache.pools.req_to_token_pool",
    "TokenToKVPoolAllocator": "kvcache.pools.allocator",
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
