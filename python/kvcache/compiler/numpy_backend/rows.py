"""Which rows of which arrays a step works on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def completed_blocks(loc: NDArray[Any], ctx: Any) -> tuple[Rows, Rows]:
    """Returns the blocks that new tokens complete.

    Args:
        loc: The slots of the new tokens in the pool, int64 `[num_tokens]`.
        ctx: A cache context, for the pool's sizes.

    Returns:
        For each such token and key-value head the row of tensors that have one
        for each token and head, and the row of the block in the pool.

    Raises:
        AssertionError: If `loc` is no int64 array of one axis.
    """
    if loc.dtype != np.int64 or loc.ndim != 1:
        raise AssertionError(
            f"wanted loc of int64 [num_tokens], got {loc.dtype} {loc.shape}"
        )
    ragged, paged = [], []
    for token, slot in enumerate(loc.tolist()):
        if (slot + 1) % ctx.block_size:
            continue
        page, place = divmod(slot, ctx.page_size)
        for head in range(ctx.head_num):
            of_page = (page * ctx.head_num + head) * ctx.num_blocks_per_page
            ragged.append(token * ctx.head_num + head)
            paged.append(of_page + place // ctx.block_size)
    return np.array(ragged, np.int64), np.array(paged, np.int64)


@dataclass(frozen=True, slots=True)
class Segment:
    """The blocks of one request and key-value head."""

    row: Rows
    """Its row in tensors that have one for each request and head, `[1]`."""
    ragged: Rows
    """Rows of its scored blocks in tensors that have one for each block."""
    paged: Rows
    """Rows of its scored blocks in the pool."""
    blocks: Rows
    """All its blocks in the pool: the scored ones, then the tail."""


def segments(ctx: Any) -> Iterator[Segment]:
    """Yields the blocks of each request and key-value head.

    The last block, in which the request's next token is, is never scored.

    Args:
        ctx: An indexer context with the arrays of a step.
    """
    bounds = np.asarray(ctx.dense_kv_indptr, np.int64)
    indices = np.asarray(ctx.dense_kv_indices, np.int64)
    for row in range(num_segments(ctx)):
        start, end = int(bounds[row]), int(bounds[row + 1])
        scored = slice(start, max(start, end - 1))
        yield Segment(
            row=np.array([row]),
            ragged=np.arange(scored.start, scored.stop),
            paged=indices[scored],
            blocks=indices[start:end],
        )


def num_segments(ctx: Any) -> int:
    """Returns how many requests times key-value heads a step has."""
    if ctx.batch_size:
        return int(ctx.batch_size * ctx.num_kv_heads)
    return len(ctx.dense_kv_indptr) - 1
