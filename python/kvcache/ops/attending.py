"""Attends over pages."""

import numpy as np
from max.dtype import DType
from max.graph import BufferValue, DeviceRef, Dim, TensorType, TensorValue, ops

from kvcache.attention_workspace import attention_workspace
from kvcache.cache_inputs import CacheInputs
from kvcache.ops.checks import (
    CPU,
    check_rules,
    check_sinks,
    check_value_dim,
    check_workspace,
    checked_q_heads,
    layer_of,
    want_values,
)

MAX_HEAD_DIMS = (64, 128, 256)
"""The head sizes that `attention_max` takes on a GPU."""


def attention(
    cache: CacheInputs,
    queries: TensorValue,
    input_row_offsets: TensorValue,
    *,
    layer: int | TensorValue,
    scale: float,
    window: int | None = None,
    sink_tokens: int = 0,
    sinks: TensorValue | None = None,
    softcap: float | None = None,
    value_dim: int | None = None,
    workspace: BufferValue | None = None,
) -> TensorValue:
    """Attends causally over the pages, whose new tokens are stored already.

    Token `i` of a sequence's new tokens is at position `cache_lengths + i` and
    sees itself and all before it, or the last `window` of these. The query
    heads share key-value heads in groups; prefill, chunked prefill and decode
    may be mixed in a batch. A page of which no token sees anything is not
    read: its entry of the lookup table may be any.

    In a cache of latents, all query heads share the latents as keys, and the
    first `value_dim` elements of each as its value. So queries come, and
    results go, in the latents' space (MLA's absorbed form).

    Args:
        cache: The cache.
        queries: `[total_tokens, num_q_heads, head_dim]`.
        input_row_offsets: Where each sequence starts, uint32
            `[batch_size + 1]`.
        layer: The layer, as a number or as a uint32 scalar on the CPU.
        scale: What the products of queries and keys are multiplied by.
        window: The tokens that a token sees, itself included; all by default.
        sink_tokens: The first tokens of a sequence that stay in sight when
            they are out of the window.
        sinks: A logit of each query head, float32 `[num_q_heads]`, that takes
            its share of the softmax and adds no value. The scale does not
            apply to it.
        softcap: What bounds the scores: `softcap * tanh(score / softcap)` is
            in the place of `score`.
        value_dim: The leading elements of a latent that are its value; for a
            cache of latents, and for no other.
        workspace: From `attention_workspace`. By default the call has one of
            its own; all calls of a graph can share one, and in a subgraph they
            must.

    Returns:
        The weighted values, of the shape of `queries`; of latents,
        `[total_tokens, num_q_heads, value_dim]`.

    Raises:
        ValueError: If a shape or dtype does not fit the pool, or `value_dim` or
            a rule is out of its range.
    """
    num_q_heads = checked_q_heads(cache, queries, input_row_offsets)
    check_value_dim(cache, value_dim)
    check_rules(window, sink_tokens, softcap)
    device = cache.kv_blocks.device
    if sinks is not None:
        check_sinks(sinks, num_q_heads)
    if workspace is None:
        workspace = attention_workspace(cache, num_q_heads)
    check_workspace(workspace, cache, num_q_heads)
    sizes = {**cache.sizes, "num_q_heads": num_q_heads}
    if value_dim is not None:
        sizes["value_dim"] = value_dim
    shape: list[Dim | int] = [queries.shape[0], num_q_heads]
    shape.append(value_dim or cache.head_dim)
    (output,) = ops.inplace_custom(
        cache.op("kvcache.attention"),
        device=device,
        values=[
            queries,
            *cache.pools,
            input_row_offsets,
            *cache.tables,
            layer_of(cache, layer),
            _nothing(device) if sinks is None else sinks,
            ops.constant(scale, DType.float32, CPU),
            ops.constant(window or 0, DType.uint32, CPU),
            ops.constant(sink_tokens, DType.uint32, CPU),
            ops.constant(softcap or 0, DType.float32, CPU),
            *([] if cache.is_mla else [workspace]),
        ],
        out_types=[TensorType(queries.dtype, shape, device)],
        parameters={
            **sizes,
            "has_window": window is not None,
            "has_sinks": sinks is not None,
            "has_softcap": softcap is not None,
        },
    )
    return output.tensor


def attention_max(
    cache: CacheInputs,
    queries: TensorValue,
    input_row_offsets: TensorValue,
    *,
    layer: int | TensorValue,
    scale: float,
) -> TensorValue:
    """Attends as `attention` does, by the kernels that come with MAX.

    There are no windows, sinks or caps. On the CPU the pool is float32. On a
    GPU it is bfloat16, the kernel is the one for prompts, whatever the batch,
    and it reads a sequence's last page to its end: what is not written there
    must be finite, as it is in a pool that began as zeros.

    Args:
        cache: The cache.
        queries: `[total_tokens, num_q_heads, head_dim]`.
        input_row_offsets: Where each sequence starts, uint32
            `[batch_size + 1]`.
        layer: The layer, as a number or as a uint32 scalar on the CPU.
        scale: What the products of queries and keys are multiplied by.

    Returns:
        The weighted values, of the shape of `queries`.

    Raises:
        ValueError: If a shape or dtype does not fit the pool, or the kernels
            of the device do not take it.
    """
    want_values("attention_max", cache)
    num_q_heads = checked_q_heads(cache, queries, input_row_offsets)
    device = cache.kv_blocks.device
    wanted = DType.float32 if device.is_cpu() else DType.bfloat16
    if cache.kv_blocks.dtype != wanted:
        raise ValueError(
            f"attention_max on {device} takes a pool of {wanted.name}, got"
            f" {cache.kv_blocks.dtype.name}"
        )
    if device.is_gpu() and cache.head_dim not in MAX_HEAD_DIMS:
        raise ValueError(
            f"attention_max on {device} takes a head_dim of"
            f" {', '.join(map(str, MAX_HEAD_DIMS))}, got {cache.head_dim}"
        )
    (output,) = ops.inplace_custom(
        "kvcache.attention_max",
        device=device,
        values=[
            queries,
            cache.kv_blocks,
            input_row_offsets,
            *cache.tables,
            layer_of(cache, layer),
            ops.constant(scale, DType.float32, CPU),
        ],
        out_types=[queries.type],
        parameters={**cache.sizes, "num_q_heads": num_q_heads},
    )
    return output.tensor


def _nothing(device: DeviceRef) -> TensorValue:
    """Returns what stands in the place of a tensor that is not in use."""
    return ops.constant(np.zeros(1, np.float32), DType.float32, device)
