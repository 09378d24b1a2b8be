"""What a pipeline computes, on plain arrays of one layer and head.

Everything stays float32 from end to end; rounding to a field's type is the
caller's.
"""

from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kvcache.compiler.module_files import module_of
from kvcache.compiler.module_text import NAME
from kvcache.compiler.numpy_backend.emitter import (
    CONSTANTS,
    implementation,
    is_topk,
)
from kvcache.compiler.program import Program, Side
from kvcache.compiler.vtensor import FORMAT

Tiles = NDArray[np.float32]


def run_cache(
    program: Program, fields: Mapping[str, NDArray[np.generic]]
) -> dict[str, Tiles]:
    """Returns the fields of complete blocks that a pipeline makes.

    Args:
        program: The pipeline of a cache side.
        fields: The blocks' tiles by name, `[n, r, c]`; `k` at least, if the
            pipeline reads it.

    Returns:
        The fields that are made, float32 `[n, r, c]`.

    Raises:
        ValueError: If the pipeline is no cache side, or the fields do not fit
            what it reads.
    """
    _check_side(program, Side.CACHE)
    given = _given(program, fields)
    counts = {len(fields[name]) for name in fields}
    if len(counts) != 1:
        raise ValueError(f"wanted as many blocks of each field, got {counts}")
    made = _computed(program, given, counts.pop())
    return {program.names[each]: made[each] for each in program.written}


def score_blocks(
    program: Program,
    q: NDArray[np.generic],
    fields: Mapping[str, NDArray[np.generic]],
) -> Tiles:
    """Returns the scores by which blocks of one request and head are chosen.

    Args:
        program: The pipeline of an indexer.
        q: The queries of the head's group, `[group, head_dim]`.
        fields: Tiles of the request's complete blocks by name, `[S, r, c]`.

    Returns:
        Float32 `[S]`.

    Raises:
        ValueError: If the pipeline is no indexer that chooses blocks, or the
            arrays do not fit what it reads.
    """
    _check_side(program, Side.INDEXER)
    topk = [kernel for kernel in program.kernels if is_topk(kernel)]
    if not topk:
        raise ValueError("wanted a pipeline with topK, got none")
    given = _given(program, {**fields, "q": q[None]})
    counts = {len(tiles) for tiles in fields.values()}
    if len(counts) != 1:
        raise ValueError(f"wanted as many blocks of each field, got {counts}")
    num_blocks = counts.pop()
    made = _computed(program, given, num_blocks)
    (score,) = topk[0].reads
    return made[score].reshape(num_blocks)


def _check_side(program: Program, side: Side) -> None:
    if program.side is not side:
        raise ValueError(f"wanted the {side} side, got the {program.side} side")


def _given(
    program: Program, arrays: Mapping[str, NDArray[np.generic]]
) -> dict[int, Tiles]:
    """Returns what comes from outside as float32, by tensors."""
    read = {each for kernel in program.kernels for each in kernel.reads}
    made = {each for kernel in program.kernels for each in kernel.stores}
    given = {}
    for tensor in sorted(read - made):
        name, tile = program.names[tensor], program.tensors[tensor].tile
        if name not in arrays:
            raise ValueError(f"wanted {name}, got {', '.join(arrays)}")
        if arrays[name].shape[1:] != tile:
            raise ValueError(
                f"wanted {name} of shape (*, {tile[0]}, {tile[1]}), got "
                f"{arrays[name].shape}"
            )
        given[tensor] = arrays[name].astype(np.float32)
    return given


def _computed(
    program: Program, given: dict[int, Tiles], rows: int
) -> dict[int, Tiles]:
    """Returns all tensors that leave kernels, with what was given."""
    tensors = dict(given)
    kernels = {
        i: kernel
        for i, kernel in enumerate(program.kernels)
        if not is_topk(kernel)
    }
    parts = [CONSTANTS, *(implementation(program, i) for i in kernels)]
    text = "\n".join(line for part in parts for line in (*part, "", ""))
    code = _code(text)
    for i, kernel in kernels.items():
        shapes = {
            each: (_rows_of(program, each, rows), *program.tensors[each].tile)
            for each in kernel.stores
        }
        if rows == 0:
            tensors |= {e: np.empty(s, np.float32) for e, s in shapes.items()}
            continue
        function = getattr(code, f"{NAME}_subgraph_{i}_impl")
        results = function(*(tensors[each] for each in kernel.reads))
        for each, tiles in zip(kernel.stores, results, strict=True):
            assert tiles.dtype == np.float32, (each, tiles.dtype)
            tensors[each] = np.broadcast_to(tiles, shapes[each])
    return tensors


@lru_cache(maxsize=64)
def _code(text: str) -> ModuleType:
    """Returns the kernels of a pipeline; whoever asks often waits once."""
    return module_of(text, "<kernels of a pipeline>")


def _rows_of(program: Program, tensor: int, rows: int) -> int:
    is_batched = program.tensors[tensor].format is FORMAT.BATCHED
    return 1 if is_batched else rows
