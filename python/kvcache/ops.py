"""Typed wrappers of the custom graph operations.

Shapes and dtypes are checked here, while a graph is built, and not again in
the kernels. A graph finds the kernels through
`custom_extensions=[precompiled_package()]`.
"""

import math

import numpy as np
from max.dtype import DType
from max.graph import (
    BufferValue,
    DeviceRef,
    Dim,
    TensorType,
    TensorValue,
    ops,
)

from kvcache.attention_workspace import (
    attention_workspace,
    attention_workspace_type,
)
from kvcache.cache_inputs import CacheInputs, static_dim
from kvcache.cache_types import (
    DTYPES,
    PAGE_SIZES,
    CacheInputTypes,
    check_one_of,
)
from kvcache.mojo_sources import precompiled_package
from kvcache.quantization import Granularity

__all__ = [
    "PAGE_SIZES",
    "CacheInputTypes",
    "CacheInputs",
    "attention",
    "attention_max",
    "attention_workspace",
    "attention_workspace_type",
    "copy_pages",
    "gather",
    "gather_latents",
    "precompiled_package",
    "rope_shift",
    "rope_store",
    "store",
    "store_latents",
    "transfer_pages",
]

_CPU = DeviceRef.CPU()

MAX_HEAD_DIMS = (64, 128, 256)
"""The head sizes that `attention_max` takes on a GPU."""
_MAX_UINT32 = 2**32 - 1


def store(
    cache: CacheInputs,
    keys: TensorValue,
    values: TensorValue,
    input_row_offsets: TensorValue,
    *,
    layer: int | TensorValue,
    scales: TensorValue | None = None,
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

    Raises:
        ValueError: If a shape or dtype does not fit the pool, or it holds
            latents.
    """
    _want_values("store", cache)
    heads = [cache.num_kv_heads, cache.head_dim]
    dtype = _row_dtype("keys", cache, keys)
    _check("keys", keys, dtype, heads)
    _check("values", values, dtype, heads)
    _check_rows(keys, values)
    _check_offsets("input_row_offsets", input_row_offsets)
    ops.inplace_custom(
        cache.op("kvcache.store"),
        device=cache.kv_blocks.device,
        values=[
            *cache.pools,
            keys,
            values,
            *_scales(cache, scales),
            input_row_offsets,
            *cache.tables,
            _layer(cache, layer),
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
    _want_latents("store_latents", cache)
    _check("latents", latents, cache.kv_blocks.dtype, [cache.head_dim])
    _check_offsets("input_row_offsets", input_row_offsets)
    ops.inplace_custom(
        cache.op("kvcache.store"),
        device=cache.kv_blocks.device,
        values=[
            cache.kv_blocks,
            latents,
            input_row_offsets,
            *cache.tables,
            _layer(cache, layer),
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

    Returns:
        The rotated queries, `[total_tokens, num_q_heads, head_dim]`.

    Raises:
        ValueError: If a shape or dtype does not fit the pool, or it holds
            latents.
    """
    _want_values("rope_store", cache)
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
    _check("qkv", qkv, _row_dtype("qkv", cache, qkv), [width])
    _check("freqs", freqs, DType.float32, [rope_dim])
    _check_offsets("input_row_offsets", input_row_offsets)
    shape: list[Dim | int] = [qkv.shape[0], num_q_heads, cache.head_dim]
    (queries,) = ops.inplace_custom(
        cache.op("kvcache.rope_store"),
        device=cache.kv_blocks.device,
        values=[
            *cache.pools,
            qkv,
            freqs,
            *_scales(cache, scales),
            input_row_offsets,
            *cache.tables,
            _layer(cache, layer),
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
    _want_values("gather", cache)
    heads = [cache.num_kv_heads, cache.head_dim]
    dtype = _row_dtype("keys", cache, keys)
    _check("keys", keys, dtype, heads)
    _check("values", values, dtype, heads)
    _check_rows(keys, values)
    _check_offsets("context_row_offsets", context_row_offsets)
    ops.inplace_custom(
        cache.op("kvcache.gather"),
        device=cache.kv_blocks.device,
        values=[
            keys,
            values,
            *cache.pools,
            context_row_offsets,
            *cache.tables,
            _layer(cache, layer),
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
    _want_latents("gather_latents", cache)
    _check("latents", latents, cache.kv_blocks.dtype, [cache.head_dim])
    _check_offsets("context_row_offsets", context_row_offsets)
    ops.inplace_custom(
        cache.op("kvcache.gather"),
        device=cache.kv_blocks.device,
        values=[
            latents,
            cache.kv_blocks,
            context_row_offsets,
            *cache.tables,
            _layer(cache, layer),
        ],
        parameters=cache.sizes,
    )


def copy_pages(kv_blocks: BufferValue, pairs: TensorValue) -> None:
    """Copies whole pages within the pool, all layers at once.

    No page may be written twice, or be both read and written.

    Args:
        kv_blocks: The pool, or the pool of its scales: each has its own call.
        pairs: Source and target pages, uint32 `[num_pairs, 2]`.

    Raises:
        ValueError: If a shape or dtype does not fit.
    """
    _check("pairs", pairs, DType.uint32, [2])
    plane = (static_dim(kv_blocks, axis) for axis in (3, 4, 5))
    page_size, num_kv_heads, head_dim = plane
    ops.inplace_custom(
        "kvcache.copy_pages",
        device=kv_blocks.device,
        values=[kv_blocks, pairs],
        parameters={"plane_stride": page_size * num_kv_heads * head_dim},
    )


def transfer_pages(
    pages: BufferValue,
    host_pages: BufferValue,
    pairs: TensorValue,
    *,
    to_host: bool,
) -> None:
    """Copies whole pages between a GPU and pinned memory of the host.

    One kernel reads or writes the host's memory itself, so that many small
    pages take as long as their bytes do. No page may be written twice.

    Args:
        pages: Pages of the GPU as bytes, uint8 `[num_pages, page_bytes]`; a
            page has a multiple of 16 bytes.
        host_pages: Pages of the host, uint8 `[num_host_pages, page_bytes]`.
        pairs: Source and target pages, uint32 `[num_pairs, 2]`, on the GPU.
        to_host: Whether the host's pages are the targets.

    Raises:
        ValueError: If a shape, dtype or device does not fit.
    """
    _check("pairs", pairs, DType.uint32, [2])
    for name, value in {"pages": pages, "host_pages": host_pages}.items():
        if value.dtype != DType.uint8 or len(value.shape) != 2:
            raise ValueError(
                f"{name} must be uint8 of 2 axes, got {value.dtype.name}"
                f" {list(value.shape)}"
            )
    if pages.shape[1] != host_pages.shape[1]:
        raise ValueError(
            f"wanted host_pages of {pages.shape[1]} bytes each, got"
            f" {host_pages.shape[1]}"
        )
    if pages.device.is_cpu() or not host_pages.device.is_cpu():
        raise ValueError(
            "wanted pages on a GPU and host_pages on the CPU, got"
            f" {pages.device} and {host_pages.device}"
        )
    ops.inplace_custom(
        "kvcache.transfer_pages",
        device=pages.device,
        values=[pages, host_pages, pairs],
        parameters={"to_host": to_host},
    )


def rope_shift(
    kv_blocks: BufferValue,
    freqs: TensorValue,
    shifts: TensorValue,
    *,
    interleaved: bool = False,
    begin: int = 0,
) -> None:
    """Turns cached keys on to new positions, in place and in all layers.

    When tokens leave a context, those behind them move up: `copy_pages` and the
    lookup table move pages, this moves the positions that keys were rotated
    for. It works on pages, not on sequences: a page that sequences share turns
    once, and for all of them. No slot may be in two shifts of one call.

    Every call rounds to the element type, and the errors add up: in bfloat16
    one shift errs by 0.15 % of an element's mean size, 256 by 13 %. So shift
    rarely and far, by half a context and not token by token.

    Args:
        kv_blocks: The pool.
        freqs: Cosines, then sines, of the angles to turn by, float32
            `[num_rows, rope_dim]`: the angles of a distance in positions, with
            their sign.
        shifts: The page, its first slot, one behind its last slot and the row
            of `freqs`, uint32 `[num_shifts, 4]`.
        interleaved: Whether a pair are neighbours (GGUF) or half of `rope_dim`
            apart (Hugging Face), as in `rope_store`.
        begin: The first of the `rope_dim` elements of a head that turn; for
            latents, where their rotated part begins, behind the value.

    Raises:
        ValueError: If a shape or dtype does not fit, or the pool is quantised.
    """
    if kv_blocks.dtype not in DTYPES:
        raise ValueError(f"wanted plain pages, got {kv_blocks.dtype.name}")
    sizes = [static_dim(kv_blocks, axis) for axis in (3, 4, 5)]
    page_size, num_kv_heads, head_dim = sizes
    rope_dim = static_dim(freqs, 1)
    if begin < 0 or rope_dim not in range(2, head_dim - begin + 1, 2):
        raise ValueError(
            "rope_dim must be even and, from begin on, in the head"
            f" ({head_dim}), got {rope_dim} from {begin} on"
        )
    if static_dim(kv_blocks, 1) == 1 and begin == 0:
        raise ValueError(
            "begin must be where the rotated part of a latent begins, got 0"
        )
    _check("freqs", freqs, DType.float32, [rope_dim])
    _check("shifts", shifts, DType.uint32, [4])
    ops.inplace_custom(
        "kvcache.rope_shift",
        device=kv_blocks.device,
        values=[kv_blocks, freqs, shifts],
        parameters={
            "page_size": page_size,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
            "rope_begin": begin,
            "rope_dim": rope_dim,
            "interleaved": interleaved,
        },
    )


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
    num_q_heads = _check_queries(cache, queries, input_row_offsets)
    _check_value_dim(cache, value_dim)
    _check_rules(window, sink_tokens, softcap)
    device = cache.kv_blocks.device
    if sinks is not None:
        _check_sinks(sinks, num_q_heads)
    if workspace is None:
        workspace = attention_workspace(cache, num_q_heads)
    _check_workspace(workspace, cache, num_q_heads)
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
            _layer(cache, layer),
            _nothing(device) if sinks is None else sinks,
            ops.constant(scale, DType.float32, _CPU),
            ops.constant(window or 0, DType.uint32, _CPU),
            ops.constant(sink_tokens, DType.uint32, _CPU),
            ops.constant(softcap or 0, DType.float32, _CPU),
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
    _want_values("attention_max", cache)
    num_q_heads = _check_queries(cache, queries, input_row_offsets)
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
            _layer(cache, layer),
            ops.constant(scale, DType.float32, _CPU),
        ],
        out_types=[queries.type],
        parameters={**cache.sizes, "num_q_heads": num_q_heads},
    )
    return output.tensor


def _check_queries(
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
    _check("queries", queries, _row_dtype("queries", cache, queries), heads)
    _check_offsets("input_row_offsets", input_row_offsets)
    return num_q_heads


def _want_values(op: str, cache: CacheInputs) -> None:
    """Refuses a cache of latents."""
    if cache.is_mla:
        raise ValueError(f"{op} wants pages of keys and values, got latents")


def _want_latents(op: str, cache: CacheInputs) -> None:
    """Refuses a cache of keys and values."""
    if not cache.is_mla:
        raise ValueError(f"{op} wants pages of latents, got keys and values")


def _check_value_dim(cache: CacheInputs, value_dim: int | None) -> None:
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


def _check(
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


def _row_dtype(
    name: str, cache: CacheInputs, value: TensorValue | BufferValue
) -> DType:
    """Returns the type that rows must have: the pool's, or any computed in."""
    if cache.kv_scales is None:
        return cache.kv_blocks.dtype
    check_one_of(name, value.dtype, DTYPES)
    return value.dtype


def _scales(
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


def _check_rows(
    keys: TensorValue | BufferValue, values: TensorValue | BufferValue
) -> None:
    """Refuses keys and values that may have different numbers of rows."""
    if keys.shape[0] != values.shape[0]:
        raise ValueError(
            f"wanted as many rows of values as of keys ({keys.shape[0]}),"
            f" got {values.shape[0]}"
        )


def _check_offsets(name: str, value: TensorValue) -> None:
    """Refuses row offsets that are not a uint32 vector."""
    _check(name, value, DType.uint32, [])


def _check_rules(
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


def _check_sinks(sinks: TensorValue, num_q_heads: int) -> None:
    """Refuses sinks that are not one logit for each query head."""
    if sinks.dtype != DType.float32 or list(sinks.shape) != [num_q_heads]:
        raise ValueError(
            f"sinks must be float32 [{num_q_heads}], got {sinks.dtype.name}"
            f" {list(sinks.shape)}"
        )


def _check_workspace(
    workspace: BufferValue, cache: CacheInputs, num_q_heads: int
) -> None:
    """Refuses a workspace that another cache's attention has made."""
    wanted = attention_workspace_type(cache, num_q_heads)
    if workspace.type != wanted:
        raise ValueError(f"workspace must be {wanted}, got {workspace.type}")


def _nothing(device: DeviceRef) -> TensorValue:
    """Returns what stands in the place of a tensor that is not in use."""
    return ops.constant(np.zeros(1, np.float32), DType.float32, device)


def _layer(cache: CacheInputs, layer: int | TensorValue) -> TensorValue:
    """Returns the layer as a scalar on the CPU."""
    if isinstance(layer, TensorValue):
        if layer.dtype != DType.uint32 or layer.shape or layer.device != _CPU:
            raise ValueError(
                f"layer must be a uint32 scalar on the CPU, got {layer.type}"
            )
        return layer
    if not 0 <= layer < cache.num_layers:
        raise ValueError(
            f"layer must be from 0 to {cache.num_layers - 1}, got {layer}"
        )
    return ops.constant(layer, DType.uint32, _CPU)
