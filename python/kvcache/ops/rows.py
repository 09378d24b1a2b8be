"""Moves the rows of ragged batches into pages and out of them."""

from max.dtype import DType
from max.graph import BufferValue, Dim, TensorType, TensorValue, ops

from kvcache.cache_inputs import CacheInputs, static_dim
from kvcache.flow_ops import FlowOps
from kvcache.ops.checks import (
    check_offsets,
    check_rows_of,
    check_same_rows,
    layer_of,
    row_dtype,
    scales_of,
    summaries_of,
    want_latents,
    want_values,
)


def store(
    cache: CacheInputs,
    keys: TensorValue,
    values: TensorValue,
    input_row_offsets: TensorValue,
    *,
    layer: int | TensorValue,
    scales: TensorValue | None = None,
    flow: FlowOps | None = None,
) -> None:
    """Stores the keys and values of a ragged batch behind its cached tokens.

    Args:
        cache: The cache.
        keys: New keys, `[total_tokens, num_kv_heads, head_dim]`.
        values: New values, of the same shape.
        input_row_offsets: Where each sequence starts, uint32
            `[batch_size + 1]`.
        layer: The layer, as a number or as a uint32 scalar on the CPU.
        scales: What the layer's keys and values are kept with, float32
            `[2, num_kv_heads]`, or `[2, 1]` for one scale each; for a quantised
            cache whose tokens have no scales of their own. They must be
            positive normal numbers, the same in every call over the life of the
            pool: a page has one for all its tokens.
        flow: The flow whose summaries the cache has: those of the blocks that
            the step completes are made as well. All layers must be stored so,
            from layer 0 to the last one; `summarise` is not needed then.

    Raises:
        ValueError: If a shape or dtype does not fit the pool, or it holds
            latents, or other summaries than the flow's.
    """
    want_values("store", cache)
    heads = [cache.num_kv_heads, cache.head_dim]
    dtype = row_dtype("keys", cache, keys)
    check_rows_of("keys", keys, dtype, heads)
    check_rows_of("values", values, dtype, heads)
    check_same_rows(keys, values)
    check_offsets("input_row_offsets", input_row_offsets)
    ops.inplace_custom(
        cache.op(flow.store if flow else "kvcache.store"),
        device=cache.kv_blocks.device,
        values=[
            *cache.pools,
            keys,
            values,
            *scales_of(cache, scales),
            *summaries_of("store", cache, flow),
            input_row_offsets,
            *cache.tables,
            layer_of(cache, layer),
        ],
        parameters=cache.sizes,
    )


def store_latents(
    cache: CacheInputs,
    latents: TensorValue,
    input_row_offsets: TensorValue,
    *,
    layer: int | TensorValue,
) -> None:
    """Stores the latents of a ragged batch behind its cached tokens.

    A latent is what multi-head latent attention keeps of a token: what the
    keys and values of all heads are made from, and behind it the part of the
    key that is rotated, as it is after the rotation.

    Args:
        cache: The cache, one of latents.
        latents: New latents, `[total_tokens, head_dim]`.
        input_row_offsets: Where each sequence starts, uint32
            `[batch_size + 1]`.
        layer: The layer, as a number or as a uint32 scalar on the CPU.

    Raises:
        ValueError: If a shape or dtype does not fit the pool, or it holds
            keys and values.

    References:
        DeepSeek-V2, https://arxiv.org/abs/2405.04434.
    """
    want_latents("store_latents", cache)
    dtype = row_dtype("latents", cache, latents)
    check_rows_of("latents", latents, dtype, [cache.head_dim])
    check_offsets("input_row_offsets", input_row_offsets)
    ops.inplace_custom(
        cache.op("kvcache.store"),
        device=cache.kv_blocks.device,
        values=[
            *cache.pools,
            latents,
            input_row_offsets,
            *cache.tables,
            layer_of(cache, layer),
        ],
        parameters=cache.sizes,
    )


def rope_store(
    cache: CacheInputs,
    qkv: TensorValue,
    freqs: TensorValue,
    input_row_offsets: TensorValue,
    *,
    layer: int | TensorValue,
    interleaved: bool = False,
    scales: TensorValue | None = None,
    flow: FlowOps | None = None,
) -> TensorValue:
    """Rotates queries and keys and stores keys and values, in one kernel.

    Args:
        cache: The cache.
        qkv: The heads of queries, keys and values side by side,
            `[total_tokens, (num_q_heads + 2 * num_kv_heads) * head_dim]`.
        freqs: Cosines, then sines, of every position, float32
            `[num_positions, rope_dim]`; the first `rope_dim` elements of a
            head turn.
        input_row_offsets: Where each sequence starts, uint32
            `[batch_size + 1]`.
        layer: The layer, as a number or as a uint32 scalar on the CPU.
        interleaved: Whether a pair are neighbours (GGUF) or half of `rope_dim`
            apart (Hugging Face).
        scales: As in `store`.
        flow: As in `store`.

    Returns:
        The rotated queries, `[total_tokens, num_q_heads, head_dim]`.

    Raises:
        ValueError: If a shape or dtype does not fit the pool, or it holds
            latents, or other summaries than the flow's.
    """
    want_values("rope_store", cache)
    width = static_dim(qkv, 1)
    heads, rest = divmod(width, cache.head_dim)
    num_q_heads = heads - 2 * cache.num_kv_heads
    if rest or num_q_heads < 1 or num_q_heads % cache.num_kv_heads:
        raise ValueError(
            f"qkv must hold a multiple of {cache.num_kv_heads} query heads and"
            f" {2 * cache.num_kv_heads} more of {cache.head_dim} elements each,"
            f" got {width} elements"
        )
    rope_dim = static_dim(freqs, 1)
    if rope_dim not in range(2, cache.head_dim + 1, 2):
        raise ValueError(
            "rope_dim must be even and at most head_dim"
            f" ({cache.head_dim}), got {rope_dim}"
        )
    check_rows_of("qkv", qkv, row_dtype("qkv", cache, qkv), [width])
    check_rows_of("freqs", freqs, DType.float32, [rope_dim])
    check_offsets("input_row_offsets", input_row_offsets)
    shape: list[Dim | int] = [qkv.shape[0], num_q_heads, cache.head_dim]
    (queries,) = ops.inplace_custom(
        cache.op(flow.rope_store if flow else "kvcache.rope_store"),
        device=cache.kv_blocks.device,
        values=[
            *cache.pools,
            qkv,
            freqs,
            *scales_of(cache, scales),
            *summaries_of("rope_store", cache, flow),
            input_row_offsets,
            *cache.tables,
            layer_of(cache, layer),
        ],
        out_types=[TensorType(qkv.dtype, shape, qkv.device)],
        parameters={
            **cache.sizes,
            "num_q_heads": num_q_heads,
            "rope_dim": rope_dim,
            "interleaved": interleaved,
        },
    )
    return queries.tensor


def gather(
    cache: CacheInputs,
    keys: BufferValue,
    values: BufferValue,
    context_row_offsets: TensorValue,
    *,
    layer: int | TensorValue,
) -> None:
    """Gathers the first tokens of every sequence out of its pages.

    Args:
        cache: The cache; `cache_lengths` does not matter here.
        keys: Receives the keys, `[context_tokens, num_kv_heads, head_dim]`.
        values: Receives the values, of the same shape.
        context_row_offsets: The output rows of each sequence, from its
            position 0, uint32 `[batch_size + 1]`. Later rows stay as they are.
        layer: The layer, as a number or as a uint32 scalar on the CPU.

    Raises:
        ValueError: If a shape or dtype does not fit the pool, or it holds
            latents.
    """
    want_values("gather", cache)
    heads = [cache.num_kv_heads, cache.head_dim]
    dtype = row_dtype("keys", cache, keys)
    check_rows_of("keys", keys, dtype, heads)
    check_rows_of("values", values, dtype, heads)
    check_same_rows(keys, values)
    check_offsets("context_row_offsets", context_row_offsets)
    ops.inplace_custom(
        cache.op("kvcache.gather"),
        device=cache.kv_blocks.device,
        values=[
            keys,
            values,
            *cache.pools,
            context_row_offsets,
            *cache.tables,
            layer_of(cache, layer),
        ],
        parameters=cache.sizes,
    )


def gather_latents(
    cache: CacheInputs,
    latents: BufferValue,
    context_row_offsets: TensorValue,
    *,
    layer: int | TensorValue,
) -> None:
    """Gathers the first latents of every sequence out of its pages.

    Args:
        cache: The cache, one of latents; `cache_lengths` does not matter here.
        latents: Receives the latents, `[context_tokens, head_dim]`.
        context_row_offsets: The output rows of each sequence, from its
            position 0, uint32 `[batch_size + 1]`. Later rows stay as they are.
        layer: The layer, as a number or as a uint32 scalar on the CPU.

    Raises:
        ValueError: If a shape or dtype does not fit the pool, or it holds
            keys and values.
    """
    want_latents("gather_latents", cache)
    dtype = row_dtype("latents", cache, latents)
    check_rows_of("latents", latents, dtype, [cache.head_dim])
    check_offsets("context_row_offsets", context_row_offsets)
    ops.inplace_custom(
        cache.op("kvcache.gather"),
        device=cache.kv_blocks.device,
        values=[
            latents,
            *cache.pools,
            context_row_offsets,
            *cache.tables,
            layer_of(cache, layer),
        ],
        parameters=cache.sizes,
    )
