"""Steps of indexers on the seed's layout: drawn arrays, and which blocks."""

from typing import Any

import numpy as np

from compiler_cases import BLOCK, HEADS, PAGE, PAGES, drawn
from kvcache.compiler.numpy_backend import sparse_bounds
from kvcache.compiler.vtensor import FORMAT

ROWS = PAGES * PAGE // BLOCK * HEADS
SIZES = ([1, 2, 7, 5, 0, 4], [0, 0], [1, 1], [9, 2, 23, 3], [])
"""The blocks of each request and head, of some steps."""


def set_step(ctx: Any, sizes: list[int], seed: int) -> None:
    """Gives a context the blocks of a step, and a budget."""
    rng = np.random.default_rng(seed)
    ctx.batch_size = len(sizes) // HEADS
    ctx.dense_kv_indptr = np.cumsum([0, *sizes]).astype(np.int32)
    order = rng.permutation(ROWS)[: sum(sizes) + 2]
    ctx.dense_kv_indices = order.astype(np.int32)
    ctx.topk_val, ctx.block_reserved_bos = int(seed % 4), int(seed % 3)
    ctx.block_reserved_eos, ctx.topk_ratio = 1 + seed % 2, 0.1 * (seed % 8)
    ctx.sparse_kv_indptr = sparse_bounds(ctx).astype(np.int32)


def drawn_pool(ctx: Any, seed: int) -> dict[str, np.ndarray]:
    """Draws fields; with an odd seed most of their blocks are one of four."""
    pool = {
        ctx.tensor_id_to_tensor_name_map[t.tensor_id][7:-2]: drawn(
            (ROWS, *t.tile), seed + i
        )
        for i, t in enumerate(ctx.tensor_list)
        if t._format is FORMAT.PAGED
    }
    for field in pool.values():
        field[seed % 5] = np.nan
        if seed % 2:
            field[5:] = field[5 + np.arange(ROWS - 5) % 4]
    return pool
