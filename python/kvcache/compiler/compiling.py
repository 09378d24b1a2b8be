"""Recorded pipelines as classes that run them."""

from importlib import import_module
from pathlib import Path
from typing import Any

from kvcache.cache_folder import cache_folder
from kvcache.compiler.cache.context import Context as CacheContext
from kvcache.compiler.graph import program_of
from kvcache.compiler.indexer.context import Context as IndexerContext
from kvcache.compiler.module_files import module_file, module_of
from kvcache.compiler.module_text import ModuleText

SUFFIX = "_compiled_func.py"
"""The end of the names of generated Python modules."""


def compile(ctx: CacheContext | IndexerContext) -> type[Any]:  # noqa: A001  (the seed's name)
    """Returns the class that runs what a context recorded.

    Its instances have `forward(cache, loc, ctx, cur_layer=0)` on the cache
    side, where `cache` has the arrays `[total_num_blocks, r, c]` of one layer
    by name, and `forward(q, o, cache, ctx)` on the indexer side. The generated
    module is in `ctx.compilation_cache_dir`, or else below `cache_folder()`.

    Args:
        ctx: A context that recorded a pipeline. Its `impl_backend` says what
            code is generated: `mojo`, `numpy` (arrays of NumPy) or `triton`
            (tensors of torch on CUDA).

    Raises:
        RuntimeError: If the backend is unknown, or nothing is recorded; see
            also `program_of`.
        NotImplementedError: If the backend has no code for an operator.
    """
    if ctx.impl_backend == "mojo":
        backend = import_module("kvcache.compiler.mojo_backend")
        made: type[Any] = backend.compiled_class(program_of(ctx), ctx)
        return made
    module = _module_text(ctx)
    path = module_file(compilation_folder(ctx), module.text, SUFFIX)
    loaded: type[Any] = getattr(
        module_of(module.text, path), module.entry_class
    )
    return loaded


def compilation_folder(ctx: CacheContext | IndexerContext) -> Path:
    """Returns the folder of generated modules; it need not exist yet."""
    if ctx.compilation_cache_dir:
        return Path(ctx.compilation_cache_dir).expanduser()
    return cache_folder() / "compiler"


def _module_text(ctx: CacheContext | IndexerContext) -> ModuleText:
    if ctx.impl_backend == "numpy":
        from kvcache.compiler.numpy_backend import numpy_module

        return numpy_module(program_of(ctx), ctx)
    if ctx.impl_backend == "triton":
        from kvcache.compiler.triton_backend import triton_module

        return triton_module(program_of(ctx), ctx)
    raise RuntimeError(
        f"Unknown impl_backend: {ctx.impl_backend!r}, wanted mojo, numpy or "
        "triton"
    )
