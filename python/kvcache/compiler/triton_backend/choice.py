"""Which blocks of each request are attended to, on the device.

Nothing here waits for the device, so that a step can be captured.
"""

from typing import Any

import numpy as np
import torch


def num_segments(ctx: Any) -> int:
    """Returns how many requests times key-value heads a step has."""
    if ctx.batch_size:
        return int(ctx.batch_size * ctx.num_kv_heads)
    return int(ctx.dense_kv_indptr.shape[0]) - 1


def segment_of_blocks(ctx: Any) -> torch.Tensor:
    """Returns for each block its request and head, int64 `[num_blocks]`.

    Blocks behind the last request have the number of requests and heads.
    """
    ends = ctx.dense_kv_indptr[1 : num_segments(ctx) + 1].contiguous()
    blocks = torch.arange(
        ctx.dense_kv_indices.shape[0], dtype=ends.dtype, device=ends.device
    )
    return torch.searchsorted(ends, blocks, right=True)


def choose_blocks(scores: torch.Tensor, o: torch.Tensor, ctx: Any) -> None:
    """Writes the chosen blocks of each request and head, ascending.

    The first and the last blocks are chosen first, then others by their
    scores; of equal ones the lower place. NaN counts as minus infinity.

    Args:
        scores: `[at least dense_kv_indptr[-1], 1, 1]`; those of tails are not
            read.
        o: Where the blocks go, `[at least sparse_kv_indptr[-1], ...]`.
        ctx: An indexer context with the arrays of a step. Counts that are
            not the budget's are not noticed.
    """
    rows, count = num_segments(ctx), ctx.dense_kv_indices.shape[0]
    if not rows or not count:
        return
    segment = segment_of_blocks(ctx)
    is_real = segment < rows
    mine = segment.clamp(max=rows - 1)
    starts = ctx.dense_kv_indptr[:rows].to(torch.int64)
    sizes = ctx.dense_kv_indptr[1 : rows + 1].to(torch.int64) - starts
    place = torch.arange(count, device=segment.device) - starts[mine]
    is_reserved = (place < ctx.block_reserved_bos) | (
        place >= sizes[mine] - ctx.block_reserved_eos
    )
    ranked = scores.reshape(-1)[:count]
    ranked = ranked.masked_fill(is_reserved | ranked.isnan(), float("-inf"))
    rank = _ranks(ranked, is_reserved, segment) - starts[mine]
    is_chosen = is_real & (rank < _counts(sizes, ctx)[mine])
    _write(is_chosen, mine, o, ctx)


def _ranks(
    scores: torch.Tensor, is_first: torch.Tensor, segment: torch.Tensor
) -> torch.Tensor:
    """Returns each block's place among all: by segment, reserved, score."""
    order = torch.argsort(scores, descending=True, stable=True)
    later = (~is_first).to(torch.int64)
    order = order[torch.argsort(later[order], stable=True)]
    order = order[torch.argsort(segment[order], stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(order.shape[0], device=order.device)
    return ranks


def _counts(sizes: torch.Tensor, ctx: Any) -> torch.Tensor:
    ratio = float(np.float32(ctx.topk_ratio))
    part = (sizes.to(torch.float32) * ratio).floor().to(torch.int64)
    fixed = ctx.topk_val + ctx.block_reserved_bos + ctx.block_reserved_eos
    return torch.minimum(part.clamp(min=fixed), sizes)


def _write(
    is_chosen: torch.Tensor, mine: torch.Tensor, o: torch.Tensor, ctx: Any
) -> None:
    """Writes blocks in their order; those not chosen go to a spare place."""
    before = is_chosen.cumsum(0) - is_chosen.to(torch.int64)
    starts = ctx.dense_kv_indptr[mine].to(torch.int64)
    inside = before - before[starts]
    target = ctx.sparse_kv_indptr[mine].to(torch.int64) + inside
    spare = o.numel()
    target = torch.where(is_chosen, target, spare)
    padded = torch.cat([o.reshape(-1), o.new_empty(1)])
    padded.scatter_(0, target, ctx.dense_kv_indices.to(o.dtype))
    o.copy_(padded[:spare].reshape(o.shape))
