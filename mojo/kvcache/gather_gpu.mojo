"""Gathers pages into contiguous keys and values, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.sys import align_of

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .vectors import THREADS, gpu_width


def gather_kernel[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, width: Int
](
    keys: Pointer[Scalar[dtype], MutUntrackedOrigin],
    values: Pointer[Scalar[dtype], MutUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_cache: PagedKVCache[dtype, kv_params, page_size],
    context: RaggedBatch,
):
    """Moves one vector of a key and of a value per thread.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        width: The elements per vector.

    Args:
        keys: Receives the keys, `[context_tokens, num_kv_heads, head_dim]`.
        values: Receives the values, of the same shape.
        key_cache: The layer's keys.
        value_cache: The layer's values.
        context: The output rows of each sequence, from its position 0.
    """
    comptime stride = key_cache.page_layout.token_stride
    comptime align = width * align_of[Scalar[dtype]]()
    var item = Int(block_idx.x) * THREADS + Int(thread_idx.x)
    var row, vector = divmod(item, stride // width)
    if row >= context.num_rows():
        return
    var seq = context.sequence_of(row)
    var position = row - context.start(seq)
    var element = vector * width
    var target = row * stride + element
    keys.unsafe_store[alignment=align](
        target,
        key_cache.block_paged_ptr[1](seq, position, 0).unsafe_load[
            width=width, alignment=align
        ](element),
    )
    values.unsafe_store[alignment=align](
        target,
        value_cache.block_paged_ptr[1](seq, position, 0).unsafe_load[
            width=width, alignment=align
        ](element),
    )


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
        value_cache: The layer's values.
        context: The output rows of each sequence, from its position 0.
        context_tokens: The rows in `keys`.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime stride = key_cache.page_layout.token_stride
    comptime width = gpu_width[dtype](stride)
    if context_tokens == 0:
        return
    comptime kernel = gather_kernel[dtype, kv_params, page_size, width]
    ctx.enqueue_function[kernel](
        keys,
        values,
        key_cache,
        value_cache,
        context,
        grid_dim=ceildiv(context_tokens * (stride // width), THREADS),
        block_dim=THREADS,
    )
