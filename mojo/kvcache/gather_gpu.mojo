"""Gathers pages into contiguous keys and values, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext
from std.sys import align_of

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .overlap import (
    await_kernels_before,
    load_after_wait,
    overlapping_launch,
)
from .row_share import ROW_THREADS, RowShare
from .sequence_rows import RowGuess
from .vectors import gpu_width


def gather_kernel[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, width: Int
](
    keys: Pointer[Scalar[dtype], MutUntrackedOrigin],
    values: Pointer[Scalar[dtype], MutUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_blocks: Pointer[Scalar[dtype], MutUntrackedOrigin],
    context: RaggedBatch,
    context_tokens: Int32,
):
    """Moves one vector of a key and of a value per lane.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        width: The elements per vector.

    Args:
        keys: Receives the keys, `[context_tokens, num_kv_heads, head_dim]`.
        values: Receives the values, of the same shape.
        key_cache: The layer's keys.
        value_blocks: The layer's values in the first page.
        context: The output rows of each sequence, from its position 0.
        context_tokens: The rows in `keys`.
    """
    comptime stride = key_cache.page_layout.token_stride
    comptime align = width * align_of[Scalar[dtype]]()
    comptime Share = RowShare[stride // width]
    comptime Guess = RowGuess[
        dtype,
        kv_params,
        page_size,
        after_cached=False,
        is_warp_wide=Share.is_warp_wide,
        is_decode=False,
    ]
    await_kernels_before()
    var row, vector = Share.row_and_item()
    if row >= Int(context_tokens) or vector >= Share.num_items:
        return
    var guess = Guess(key_cache, context, row)
    var rows = guess.sequence(key_cache, context, row)
    if not rows.holds(row):
        return
    var element = vector * width
    var source = guess.token_offset(key_cache, rows, row) + element
    var target = row * stride + element
    var key = load_after_wait[width](key_cache.blocks.ptr.unsafe_offset(source))
    var value = load_after_wait[width](value_blocks.unsafe_offset(source))
    keys.unsafe_store[alignment=align](target, key)
    values.unsafe_store[alignment=align](target, value)


def gather_gpu[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, //
](
    keys: Pointer[Scalar[dtype], MutUntrackedOrigin],
    values: Pointer[Scalar[dtype], MutUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_cache: PagedKVCache[dtype, kv_params, page_size],
    context: RaggedBatch,
    context_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the gather of keys and values, both in one kernel.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.

    Args:
        keys: Receives the keys, `[context_tokens, num_kv_heads, head_dim]`.
        values: Receives the values, of the same shape.
        key_cache: The layer's keys.
        value_cache: The layer's values, over the same tables.
        context: The output rows of each sequence, from its position 0.
        context_tokens: The rows in `keys`.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime stride = key_cache.page_layout.token_stride
    comptime width = gpu_width[dtype](stride)
    comptime Share = RowShare[stride // width]
    if context_tokens == 0 or context.batch_size == 0:
        return
    comptime kernel = gather_kernel[dtype, kv_params, page_size, width]
    ctx.enqueue_function[kernel](
        keys,
        values,
        key_cache,
        value_cache.blocks.ptr,
        context,
        Int32(context_tokens),
        grid_dim=Share.num_blocks(context_tokens),
        block_dim=ROW_THREADS,
        attributes=overlapping_launch(),
    )
