"""Pipelines as NumPy code: what all other backends are compared with."""

from kvcache.compiler.numpy_backend.choice import (
    choose_blocks,
    chosen_count,
    chosen_places,
    sparse_bounds,
)
from kvcache.compiler.numpy_backend.emitter import numpy_module
from kvcache.compiler.numpy_backend.oracle import run_cache, score_blocks

__all__ = [
    "numpy_module",
    "run_cache",
    "score_blocks",
    "choose_blocks",
    "chosen_count",
    "chosen_places",
    "sparse_bounds",
]
