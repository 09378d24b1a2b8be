"""Calls the compiled operations of a flow."""

from max.dtype import DType
from max.graph import BufferValue, Dim, TensorType, TensorValue, ops

from kvcache.cache_inputs import CacheInputs
from kvcache.flow_ops import FlowOps, Scratch
from kvcache.ops.checks import (
    check_offsets,
    checked_q_heads,
    layer_of,
    summaries_of,
)
from kvcache.ops.sparse import choose_blocks, sparse_attention


def summarise(
    cache: CacheInputs, flow: FlowOps, input_row_offsets: TensorValue
) -> None:
    """Makes the summaries of the blocks that a step completes.

    It does so for all layers at once, so it comes behind the last layer's
    store. `store` and `rope_store` do it as well, and sooner, where they are
    given the flow: then this is not needed.

    A block that begins before this step's tokens is read from its page.
    With cache lengths of 0 and offsets over whole sequences, all their blocks
    are made anew, as is needed after keys were changed in place.

    Args:
        cache: The cache, with the flow's summaries.
        flow: The flow's operations.
        input_row_offsets: Where each sequence starts, uint32
            `[batch_size + 1]`.

    Raises:
        ValueError: If the cache has other summaries, or latents.
    """
    check_offsets("input_row_offsets", input_row_offsets)
    ops.inplace_custom(
        cache.op(flow.summarise),
        device=cache.kv_blocks.device,
        values=[
            *cache.pools,
            *summaries_of("summarise", cache, flow),
            input_row_offsets,
            *cache.tables,
        ],
        out_types=[],
        parameters=cache.sizes,
    )


def score_blocks(
    cache: CacheInputs,
    flow: FlowOps,
    queries: TensorValue,
    input_row_offsets: TensorValue,
    *,
    layer: int | TensorValue,
) -> TensorValue:
    """Scores the complete blocks of each sequence of one new token.

    Args:
        cache: The cache, with the flow's summaries.
        flow: The flow's operations.
        queries: `[total_tokens, num_q_heads, head_dim]`.
        input_row_offsets: Where each sequence starts, uint32
            `[batch_size + 1]`.
        layer: The layer, as a number or as a uint32 scalar on the CPU.

    Returns:
        float32 `[batch_size, num_kv_heads, num_columns * blocks_per_page]`;
        what is no complete block has no meaning.

    Raises:
        ValueError: If a shape or dtype does not fit the pool, or the cache has
            other summaries, or latents.
    """
    summaries = summaries_of("score_blocks", cache, flow)
    num_q_heads = checked_q_heads(cache, queries, input_row_offsets)
    device = cache.kv_blocks.device
    batch, columns = cache.lookup_table.shape
    blocks = columns * flow.summaries.blocks_per_page(cache.page_size)
    heads = cache.num_kv_heads

    def scratch_type(each: Scratch) -> TensorType:
        tiles: list[Dim | int] = (
            [batch, heads, blocks] if each.is_per_block else [batch, heads]
        )
        shape: list[Dim | int] = [*tiles, each.rows, each.columns]
        return TensorType(DType.float32, shape, device)

    scores, *_ = ops.inplace_custom(
        cache.op(flow.score),
        device=device,
        values=[
            queries,
            *cache.pools,
            *summaries,
            input_row_offsets,
            *cache.tables,
            layer_of(cache, layer),
        ],
        out_types=[
            TensorType(DType.float32, [batch, heads, blocks], device),
            *(scratch_type(each) for each in flow.score_scratch),
        ],
        parameters={**cache.sizes, "num_q_heads": num_q_heads},
    )
    return scores.tensor


def flow_attention(  # noqa: PLR0917  (a kernel's tensors)
    cache: CacheInputs,
    flow: FlowOps,
    queries: TensorValue,
    input_row_offsets: TensorValue,
    ratios: TensorValue,
    *,
    layer: int | TensorValue,
    scale: float,
    workspace: BufferValue | None = None,
) -> TensorValue:
    """Attends as `attention` does, to chosen blocks where one token is new.

    Args:
        cache: The cache, with the flow's summaries.
        flow: Scores the blocks of a sequence with one new token. The best of
            them, the first and the last ones are chosen; see `choose_blocks`.
            A sequence with more new tokens attends to all of its tokens.
        queries: `[total_tokens, num_q_heads, head_dim]`.
        input_row_offsets: Where each sequence starts, uint32
            `[batch_size + 1]`.
        ratios: The share of its blocks that a sequence attends to, float32
            `[batch_size]`.
        layer: The layer, as a number or as a uint32 scalar on the CPU.
        scale: What the products of queries and keys are multiplied by.
        workspace: From `attention_workspace`; see `attention`.

    Returns:
        The weighted values, of the shape of `queries`.

    Raises:
        ValueError: If a shape or dtype does not fit the pool.
    """
    scores = score_blocks(cache, flow, queries, input_row_offsets, layer=layer)
    block_size = flow.summaries.block_size
    chosen = choose_blocks(
        *(cache, scores, input_row_offsets, ratios),
        block_size=block_size,
        reserved_first=flow.reserved_first,
        reserved_last=flow.reserved_last,
        top_k=flow.top_k,
    )
    return sparse_attention(
        *(cache, queries, input_row_offsets, chosen),
        layer=layer,
        scale=scale,
        block_size=block_size,
        workspace=workspace,
    )
