"""Refuses what does not fit a pool, while a graph is built.

Every function raises a `ValueError` that says what was wanted and what came.
"""

import math

from max.dtype import DType
from max.graph import BufferValue, DeviceRef, TensorValue, ops

from kvcache.attention_workspace import attention_workspace_type
from kvcache.cache_inputs import CacheInputs, static_dim
from kvcache.cache_types import DTYPES, check_one_of
from kvcache.flow_ops import FlowOps
from kvcache.quantization import Granularity

CPU = DeviceRef.CPU()
"""Where scalars are."""

_MAX_UINT32 = 2**32 - 1


def checked_q_heads(
    cache: CacheInputs, queries: TensorValue, input_row_offsets: TensorValue
) -> int:
    """Refuses queries that do not fit; returns how many heads they have."""
    num_q_heads = static_dim(queries, 1)
    if num_q_heads < 1 or num_q_heads % cache.num_kv_heads:
        raise ValueError(
            f"queries must have a multiple of {cache.num_kv_heads} heads,"
            f" got {num_q_heads}"
        )
    heads = [num_q_heads, cache.head_dim]
    check_rows_of(
        "queries", queries, row_dtype("queries", cache, queries), heads
    )
    check_offsets("input_row_offsets", input_row_offsets)
    return num_q_heads


def want_values(op: str, cache: CacheInputs) -> None:
    """Refuses a cache of latents."""
    if cache.is_mla:
        raise ValueError(f"{op} wants pages of keys and values, got latents")


def want_latents(op: str, cache: CacheInputs) -> None:
    """Refuses a cache of keys and values."""
    if not cache.is_mla:
        raise ValueError(f"{op} wants pages of latents, got keys and values")


def check_value_dim(cache: CacheInputs, value_dim: int | None) -> None:
    """Refuses a part of a latent that cannot be its value."""
    if not cache.is_mla:
        if value_dim is not None:
            raise ValueError(
                f"value_dim ({value_dim}) wants latents, got keys and values"
            )
    elif value_dim not in range(8, cache.head_dim + 1, 8):
        raise ValueError(
            "value_dim must be a multiple of 8 from 8 to head_dim"
            f" ({cache.head_dim}), got {value_dim}"
        )


def check_rows_of(
    name: str,
    value: TensorValue | BufferValue,
    dtype: DType,
    inner: list[int],
) -> None:
    """Refuses a tensor whose dtype, rank or inner dimensions do not fit."""
    shape = list(value.shape)
    if value.dtype != dtype or len(shape) != len(inner) + 1:
        raise ValueError(
            f"{name} must be {dtype.name} of {len(inner) + 1} axes, got"
            f" {value.dtype.name} {shape}"
        )
    if shape[1:] != inner:
        raise ValueError(f"{name} must be [rows, {inner}], got {shape}")


def row_dtype(
    name: str, cache: CacheInputs, value: TensorValue | BufferValue
) -> DType:
    """Returns the type that rows must have: the pool's, or any computed in."""
    if cache.kv_scales is None:
        return cache.kv_blocks.dtype
    check_one_of(name, value.dtype, DTYPES)
    return value.dtype


def scales_of(
    cache: CacheInputs, scales: TensorValue | None
) -> list[TensorValue]:
    """Returns what the store's op takes as scales, if it takes any."""
    pool = cache.kv_scales
    if pool is None or cache.granularity(pool) is Granularity.TOKEN:
        if scales is not None:
            kind = "plain" if pool is None else "per token"
            raise ValueError(f"scales are given, but the cache is {kind}")
        if pool is None:
            return []
        # The op has the argument in any case; this one is not looked at.
        one = ops.constant(1, DType.float32, cache.kv_blocks.device)
        return [one.reshape([1, 1])]
    shape = [2, static_dim(pool, 4)]
    if scales is None:
        raise ValueError(f"scales must be float32 {shape}, got None")
    if scales.dtype != DType.float32 or list(scales.shape) != shape:
        raise ValueError(
            f"scales must be float32 {shape}, got {scales.dtype.name}"
            f" {list(scales.shape)}"
        )
    return [scales]


def check_same_rows(
    keys: TensorValue | BufferValue, values: TensorValue | BufferValue
) -> None:
    """Refuses keys and values that may have different numbers of rows."""
    if keys.shape[0] != values.shape[0]:
        raise ValueError(
            f"wanted as many rows of values as of keys ({keys.shape[0]}),"
            f" got {values.shape[0]}"
        )


def check_offsets(name: str, value: TensorValue) -> None:
    """Refuses row offsets that are not a uint32 vector."""
    check_rows_of(name, value, DType.uint32, [])


def check_rules(
    window: int | None, sink_tokens: int, softcap: float | None
) -> None:
    """Refuses rules of attention that are out of their range."""
    if window is not None and not 1 <= window <= _MAX_UINT32:
        raise ValueError(f"window must be from 1 to 2**32 - 1, got {window}")
    if not 0 <= sink_tokens <= _MAX_UINT32:
        raise ValueError(
            f"sink_tokens must be from 0 to 2**32 - 1, got {sink_tokens}"
        )
    if sink_tokens and window is None:
        raise ValueError(f"sink_tokens ({sink_tokens}) want a window, got none")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap must be positive, got {softcap}")


def check_sinks(sinks: TensorValue, num_q_heads: int) -> None:
    """Refuses sinks that are not one logit for each query head."""
    if sinks.dtype != DType.float32 or list(sinks.shape) != [num_q_heads]:
        raise ValueError(
            f"sinks must be float32 [{num_q_heads}], got {sinks.dtype.name}"
            f" {list(sinks.shape)}"
        )


def check_workspace(
    workspace: BufferValue, cache: CacheInputs, num_q_heads: int
) -> None:
    """Refuses a workspace that another cache's attention has made."""
    wanted = attention_workspace_type(cache, num_q_heads)
    if workspace.type != wanted:
        raise ValueError(f"workspace must be {wanted}, got {workspace.type}")


def layer_of(cache: CacheInputs, layer: int | TensorValue) -> TensorValue:
    """Returns the layer as a scalar on the CPU."""
    if isinstance(layer, TensorValue):
        if layer.dtype != DType.uint32 or layer.shape or layer.device != CPU:
            raise ValueError(
                f"layer must be a uint32 scalar on the CPU, got {layer.type}"
            )
        return layer
    if not 0 <= layer < cache.num_layers:
        raise ValueError(
            f"layer must be from 0 to {cache.num_layers - 1}, got {layer}"
        )
    return ops.constant(layer, DType.uint32, CPU)


def summaries_of(
    op: str, cache: CacheInputs, flow: FlowOps | None
) -> tuple[BufferValue, ...]:
    """Returns the cache's summaries, which must be the flow's; or none.

    Raises:
        ValueError: If the cache has others, or latents.
    """
    if flow is None:
        return ()
    want_values(op, cache)
    blocks = flow.summaries.blocks_per_page(cache.page_size)
    outer = [cache.num_layers, blocks, cache.num_kv_heads]
    wanted = [
        (DType[field.dtype], [*outer, field.rows, field.columns])
        for field in flow.summaries.fields
    ]
    got = [
        (leaf.dtype, [static_dim(leaf, axis) for axis in range(1, 6)])
        for leaf in cache.summaries
    ]
    if got != wanted:
        raise ValueError(f"{op} wants summaries {wanted}, got {got}")
    return cache.summaries
