"""Stores the keys and values of a ragged batch into pages, on a GPU."""

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


def store_kernel[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    width: Int,
    is_decode: Bool,
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_blocks: Pointer[Scalar[dtype], MutUntrackedOrigin],
    batch: RaggedBatch,
    total_tokens: Int32,
):
    """Moves one vector of a key and of a value per lane.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        width: The elements per vector.
        is_decode: Whether there are no more rows than sequences.

    Args:
        keys: The new keys, `[total_tokens, num_kv_heads, head_dim]`.
        values: The new values, of the same shape.
        key_cache: The layer's keys.
        value_blocks: The layer's values in the first page.
        batch: The rows of each sequence.
        total_tokens: The rows in `keys`.
    """
    comptime stride = key_cache.page_layout.token_stride
    comptime align = width * align_of[Scalar[dtype]]()
    comptime Share = RowShare[stride // width]
    comptime Guess = RowGuess[
        dtype,
        kv_params,
        page_size,
        after_cached=True,
        is_warp_wide=Share.is_warp_wide,
        is_decode=is_decode,
    ]
    await_kernels_before()
    var row, vector = Share.row_and_item()
    if row >= Int(total_tokens) or vector >= Share.num_items:
        return
    var guess = Guess(key_cache, batch, row)
    var element = vector * width
    var source = row * stride + element
    var key = load_after_wait[width](keys.unsafe_offset(source))
    var value = load_after_wait[width](values.unsafe_offset(source))
    var rows = guess.sequence(key_cache, batch, row)
    if not rows.holds(row):
        return
    var target = guess.token_offset(key_cache, rows, row) + element
    key_cache.blocks.ptr.unsafe_store[alignment=align](target, key)
    value_blocks.unsafe_store[alignment=align](target, value)


def store_gpu[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, //
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_cache: PagedKVCache[dtype, kv_params, page_size],
    batch: RaggedBatch,
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the store of keys and values, both in one kernel.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.

    Args:
        keys: The new keys, `[total_tokens, num_kv_heads, head_dim]`.
        values: The new values, of the same shape.
        key_cache: The layer's keys.
        value_cache: The layer's values, over the same tables.
        batch: The rows of each sequence.
        total_tokens: The rows in `keys`.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime stride = key_cache.page_layout.token_stride
    comptime width = gpu_width[dtype](stride)
    comptime Share = RowShare[stride // width]
    if total_tokens == 0 or batch.batch_size == 0:
        return

    def launch[is_decode: Bool]() raises {imm}:
        comptime kernel = store_kernel[
            dtype, kv_params, page_size, width, is_decode
        ]
        ctx.enqueue_function[kernel](
            keys,
            values,
            key_cache,
            value_cache.blocks.ptr,
            batch,
            Int32(total_tokens),
            grid_dim=Share.num_blocks(total_tokens),
            block_dim=ROW_THREADS,
            attributes=overlapping_launch(),
        )

    if total_tokens <= Int(batch.batch_size):
        launch[True]()
    else:
        launch[False]()
