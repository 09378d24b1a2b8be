"""Which blocks of a request are attended to."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvcache.compiler.numpy_backend.rows import num_segments, segments

Rows = NDArray[np.int64]


def chosen_count(num_blocks: int, ctx: Any) -> int:
    """Returns how many blocks of a request are chosen.

    Args:
        num_blocks: Blocks of the request, its tail included.
        ctx: An indexer context, for the budget.
    """
    part = np.floor(np.float32(num_blocks) * np.float32(ctx.topk_ratio))
    fixed = ctx.topk_val + ctx.block_reserved_bos + ctx.block_reserved_eos
    return int(min(num_blocks, max(fixed, int(part))))


def chosen_places(
    scores: NDArray[np.float32], num_blocks: int, ctx: Any
) -> Rows:
    """Returns the places of the chosen blocks in their request, ascending.

    The first and the last blocks are chosen first, then others by their
    scores; of equal ones the lower place. NaN counts as minus infinity.

    Args:
        scores: Those of all blocks but the tail, `[num_blocks - 1]`.
        num_blocks: Blocks of the request, its tail included.
        ctx: An indexer context, for the budget.
    """
    count = chosen_count(num_blocks, ctx)
    first, last = ctx.block_reserved_bos, ctx.block_reserved_eos
    places = np.arange(num_blocks)
    if num_blocks <= first + last:
        return places
    free = places[first : num_blocks - last]
    ranked = np.where(np.isnan(scores), -np.inf, scores)[free]
    best = free[np.argsort(-ranked, kind="stable")][: count - first - last]
    reserved = [places[:first], places[num_blocks - last :]]
    return np.sort(np.concatenate([*reserved, best]))


def choose_blocks(scores: NDArray[np.float32], o: Any, ctx: Any) -> None:
    """Writes the chosen blocks of each request and head, ascending.

    Args:
        scores: `[dense_kv_indptr[-1], 1, 1]`; those of tails are not read.
        o: Where the blocks go, `[at least sparse_kv_indptr[-1], ...]`.
        ctx: An indexer context with the arrays of a step.

    Raises:
        AssertionError: If `sparse_kv_indptr` has other counts than the budget.
    """
    bounds = sparse_bounds(ctx)
    given = np.asarray(ctx.sparse_kv_indptr, np.int64)[: len(bounds)]
    if not np.array_equal(given, bounds):
        raise AssertionError(
            f"wanted sparse_kv_indptr {bounds.tolist()}, got {given.tolist()}"
        )

    for row, segment in enumerate(segments(ctx)):
        places = chosen_places(
            scores[segment.ragged, 0, 0], len(segment.blocks), ctx
        )
        o.flat[bounds[row] : bounds[row + 1]] = segment.blocks[places]


def sparse_bounds(ctx: Any) -> Rows:
    """Returns where the chosen blocks of each request and head begin.

    Args:
        ctx: An indexer context with `dense_kv_indptr` and a budget.

    Returns:
        What `sparse_kv_indptr` must be, `[requests * heads + 1]`.
    """
    dense = np.asarray(ctx.dense_kv_indptr, np.int64)[: num_segments(ctx) + 1]
    counts = [chosen_count(int(n), ctx) for n in np.diff(dense)]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
