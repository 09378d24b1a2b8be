"""Summaries of blocks and sparse attention, compiled from short flows.

A flow says which summary of each block of keys to keep, and how to choose
blocks by it. It is recorded in a `Context` and compiled by one of three
backends. Importing this package loads neither MAX nor torch.
"""

from importlib import import_module
from typing import Any

from kvcache.compiler import cache, flows, indexer
from kvcache.compiler.cache import Context, ctx, get_ctx
from kvcache.compiler.context_base import ContextBase
from kvcache.compiler.flow import vFlow
from kvcache.compiler.modes import UNSET, Mode
from kvcache.compiler.registry import register
from kvcache.compiler.vop import Schedule, vOp
from kvcache.compiler.vtensor import FORMAT, as_vtensor, vTensor

__all__ = [
    "Context",
    "ctx",
    "get_ctx",
    "ContextBase",
    "vTensor",
    "FORMAT",
    "as_vtensor",
    "vOp",
    "Schedule",
    "Mode",
    "UNSET",
    "vFlow",
    "register",
    "compile",
    "cache",
    "indexer",
    "flows",
]


def compile(ctx: cache.Context | indexer.Context) -> type[Any]:  # noqa: A001  (the seed's name)
    """Returns the class that computes what a context recorded.

    Args:
        ctx: A context that recorded a pipeline; its `impl_backend` says what
            compiles it: mojo, numpy or triton.

    Returns:
        The class. Its `forward` takes `(cache, loc, ctx, cur_layer=0)` for
        the cache side, `(q, o, cache, ctx)` for the indexer side.

    Raises:
        RuntimeError: If there is no such backend, or nothing is recorded.
    """
    compiling = import_module("kvcache.compiler.compiling")
    compiled: type[Any] = compiling.compile(ctx)
    return compiled
