"""Stores the keys and values of a ragged batch into pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.sys import align_of

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .vectors import THREADS, gpu_width


def store_kernel[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, width: Int
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_cache: PagedKVCache[dtype, kv_params, page_size],
    batch: RaggedBatch,
):
    """Moves one vector of a key and of a value per thread.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        width: The elements per vector.

    Args:
        keys: The new keys, `[total_tokens, num_kv_heads, head_dim]`.
        values: The new values, of the same shape.
        key_cache: The layer's keys.
        value_cache: The layer's values.
        batch: The rows of each sequence.
    """
    comptime stride = key_cache.page_layout.token_stride
    comptime align = width * align_of[Scalar[dtype]]()
    var item = Int(block_idx.x) * THREADS + Int(thread_idx.x)
    var row, vector = divmod(item, stride // width)
    if row >= batch.num_rows():
        return
    var seq = batch.sequence_of(row)
    var position = key_cache.cache_length(seq) + row - batch.start(seq)
    var element = vector * width
    var source = row * stride + element
    key_cache.block_paged_ptr[1](seq, position, 0).unsafe_store[
        alignment=align
    ](element, keys.unsafe_load[width=width, alignment=align](source))
    value_cache.block_paged_ptr[1](seq, position, 0).unsafe_store[
        alignment=align
    ](element, values.unsafe_load[width=width, alignment=align](source))


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
        value_cache: The layer's values.
        batch: The rows of each sequence.
        total_tokens: The rows in `keys`.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime stride = key_cache.page_layout.token_stride
    comptime width = gpu_width[dtype](stride)
    if total_tokens == 0:
        return
    comptime kernel = store_kernel[dtype, kv_params, page_size, width]
    ctx.enqueue_function[kernel](
        keys,
        values,
        key_cache,
        value_cache,
        batch,
        grid_dim=ceildiv(total_tokens * (stride // width), THREADS),
        block_dim=THREADS,
    )
