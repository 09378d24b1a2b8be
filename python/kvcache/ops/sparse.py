"""Chooses blocks by their scores, and attends to the chosen ones only."""

from dataclasses import dataclass

import numpy as np
from max.dtype import DType
from max.graph import BufferValue, DeviceRef, Dim, TensorType, TensorValue, ops

from kvcache.attention_workspace import attention_workspace
from kvcache.cache_inputs import CacheInputs
from kvcache.ops.checks import (
    CPU,
    check_offsets,
    check_rules,
    check_sinks,
    check_workspace,
    checked_q_heads,
    layer_of,
    want_values,
)

MIN_BLOCK_SIZE = 16
"""Tokens of the smallest block."""

MAX_BLOCKS = 2**20
"""Blocks of the longest sequence."""


@dataclass(frozen=True, slots=True)
class ChosenBlocks:
    """The blocks that a step attends to."""

    block_ids: TensorValue
    """uint32 `[batch_size, num_kv_heads, num_columns * blocks_per_page]`.

    Block `b` of page `p` has the id `p * blocks_per_page + b`. A sequence's are
    in the order of its tokens, the block of the new token last; as many as
    its length says, what is behind them is any.
    """
    lengths: TensorValue
    """Tokens in the blocks, the new one included, uint32 `[batch_size]`.

    0 for sequences that have no new token, or more than one.
    """


def choose_blocks(
    cache: CacheInputs,
    scores: TensorValue,
    input_row_offsets: TensorValue,
    ratios: TensorValue,
    *,
    block_size: int,
    reserved_first: int = 1,
    reserved_last: int = 1,
    top_k: int = 0,
) -> ChosenBlocks:
    """Chooses blocks of every sequence that has one new token.

    With `n` cached tokens it has `n // block_size + 1` blocks, that of the new
    token included. It attends to that part of them that its ratio says, rounded
    down, but at least to `top_k` and the reserved ones: the first and the last
    blocks, and of the others those of the highest scores. Of equal scores the
    earlier block's counts more, NaN counts as minus infinity. The result is the
    same in every run.

    Args:
        cache: The cache.
        scores: Score of each complete block, float32
            `[batch_size, num_kv_heads, num_columns * blocks_per_page]`; those
            of reserved blocks, and of others, may be any.
        input_row_offsets: Where each sequence starts, uint32
            `[batch_size + 1]`.
        ratios: Which part of its blocks each sequence may attend to, float32
            `[batch_size]`; from 1 on all of them.
        block_size: Tokens of a block, a power of two that divides the page
            size.
        reserved_first: The first blocks, which are always chosen.
        reserved_last: The last blocks, which are always chosen; at least one.
        top_k: Blocks that are chosen beside these, at least.

    Returns:
        The blocks.

    Raises:
        ValueError: If a shape or dtype does not fit the cache, or a number is
            out of its range.
    """
    want_values("choose_blocks", cache)
    check_block_size(cache, block_size)
    _check_counts(
        reserved_first=reserved_first,
        reserved_last=reserved_last,
        top_k=top_k,
    )
    batch_size, columns = cache.lookup_table.shape
    width = columns * (cache.page_size // block_size)
    shape: list[Dim | int] = [batch_size, cache.num_kv_heads, width]
    _check_tensor("scores", scores, DType.float32, shape)
    check_offsets("input_row_offsets", input_row_offsets)
    _check_tensor("ratios", ratios, DType.float32, [batch_size])
    device = cache.kv_blocks.device
    block_ids, lengths = ops.custom(
        "kvcache.choose_blocks",
        device=device,
        values=[
            scores,
            input_row_offsets,
            cache.cache_lengths,
            cache.lookup_table,
            ratios,
        ],
        out_types=[
            TensorType(DType.uint32, shape, device),
            TensorType(DType.uint32, [batch_size], device),
        ],
        parameters={
            "page_size": cache.page_size,
            "block_size": block_size,
            "num_kv_heads": cache.num_kv_heads,
            "reserved_first": reserved_first,
            "reserved_last": reserved_last,
            "top_k": top_k,
        },
    )
    return ChosenBlocks(block_ids.tensor, lengths.tensor)


def sparse_attention(
    cache: CacheInputs,
    queries: TensorValue,
    input_row_offsets: TensorValue,
    chosen: ChosenBlocks,
    *,
    layer: int | TensorValue,
    scale: float,
    block_size: int,
    sinks: TensorValue | None = None,
    softcap: float | None = None,
    workspace: BufferValue | None = None,
) -> TensorValue:
    """Attends to chosen blocks only, where a sequence has one new token.

    Sequences of more new tokens attend to all that is cached, as in
    `attention`; there is no window. What lies in other blocks of the first ones
    adds nothing to the result, whatever it is.

    Args:
        cache: The cache; its pages hold the new tokens already.
        queries: `[total_tokens, num_q_heads, head_dim]`.
        input_row_offsets: Where each sequence starts, uint32
            `[batch_size + 1]`.
        chosen: The blocks, chosen for the same batch.
        layer: The layer, as a number or as a uint32 scalar on the CPU.
        scale: What the products of queries and keys are multiplied by.
        block_size: Tokens of a block, as they were chosen.
        sinks: A logit of each query head, float32 `[num_q_heads]`, that takes
            its share of the softmax and adds no value.
        softcap: What bounds the scores.
        workspace: From `attention_workspace`. By default the call has one of
            its own; all calls of a graph can share one, and in a subgraph they
            must.

    Returns:
        The weighted values, of the shape of `queries`.

    Raises:
        ValueError: If a shape or dtype does not fit the pool or the blocks, or
            a number is out of its range.
    """
    want_values("sparse_attention", cache)
    num_q_heads = checked_q_heads(cache, queries, input_row_offsets)
    check_block_size(cache, block_size)
    _check_chosen(cache, chosen, block_size)
    check_rules(None, 0, softcap)
    if sinks is not None:
        check_sinks(sinks, num_q_heads)
    if workspace is None:
        workspace = attention_workspace(cache, num_q_heads)
    check_workspace(workspace, cache, num_q_heads)
    device = cache.kv_blocks.device
    (output,) = ops.inplace_custom(
        cache.op("kvcache.sparse_attention"),
        device=device,
        values=[
            queries,
            *cache.pools,
            input_row_offsets,
            *cache.tables,
            layer_of(cache, layer),
            chosen.block_ids,
            chosen.lengths,
            _no_sinks(device) if sinks is None else sinks,
            ops.constant(scale, DType.float32, CPU),
            ops.constant(softcap or 0, DType.float32, CPU),
            workspace,
        ],
        out_types=[queries.type],
        parameters={
            **cache.sizes,
            "num_q_heads": num_q_heads,
            "block_size": block_size,
            "has_sinks": sinks is not None,
            "has_softcap": softcap is not None,
        },
    )
    return output.tensor


def check_block_size(cache: CacheInputs, block_size: int) -> None:
    """Refuses blocks that do not fill pages.

    Args:
        cache: The cache.
        block_size: Tokens of a block.

    Raises:
        ValueError: If it is not a power of two from 16 on that divides the page
            size.
    """
    is_power = block_size > 0 and not block_size & (block_size - 1)
    if not is_power or not MIN_BLOCK_SIZE <= block_size <= cache.page_size:
        raise ValueError(
            f"block_size must be a power of two from {MIN_BLOCK_SIZE} to the"
            f" page_size ({cache.page_size}), got {block_size}"
        )


def _check_counts(
    *, reserved_first: int, reserved_last: int, top_k: int
) -> None:
    """Refuses numbers of blocks that are out of their range."""
    for name, value, least in (
        ("reserved_first", reserved_first, 0),
        ("reserved_last", reserved_last, 1),
        ("top_k", top_k, 0),
    ):
        if not least <= value <= MAX_BLOCKS:
            raise ValueError(
                f"{name} must be from {least} to {MAX_BLOCKS}, got {value}"
            )


def _check_chosen(
    cache: CacheInputs, chosen: ChosenBlocks, block_size: int
) -> None:
    """Refuses blocks that were chosen for another batch or block size."""
    batch_size, columns = cache.lookup_table.shape
    width = columns * (cache.page_size // block_size)
    shape: list[Dim | int] = [batch_size, cache.num_kv_heads, width]
    _check_tensor("block_ids", chosen.block_ids, DType.uint32, shape)
    _check_tensor("lengths", chosen.lengths, DType.uint32, [batch_size])


def _check_tensor(
    name: str, value: TensorValue, dtype: DType, shape: list[Dim | int]
) -> None:
    """Refuses a tensor of another type or shape."""
    if value.dtype != dtype or list(value.shape) != shape:
        raise ValueError(
            f"{name} must be {dtype.name} {shape}, got {value.dtype.name}"
            f" {list(value.shape)}"
        )


def _no_sinks(device: DeviceRef) -> TensorValue:
    """Returns what stands in the place of sinks that are not in use."""
    return ops.constant(np.zeros(1, np.float32), DType.float32, device)
