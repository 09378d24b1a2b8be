"""Gathers what quantised pages mean, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.sys import size_of

from .cache import PagedKVCache
from .quantize import dequantize
from .ragged import RaggedBatch
from .scales import SHARED_WIDTH, Quantization
from .vectors import GPU_VECTOR_BYTES, THREADS


def gather_quantized_kernel[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
](
    keys: Pointer[Scalar[dtype], MutUntrackedOrigin],
    values: Pointer[Scalar[dtype], MutUntrackedOrigin],
    key_cache: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
    value_cache: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
    context: RaggedBatch,
):
    """Writes eight elements of a key and of a value per thread.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.

    Args:
        keys: Receives the keys, or latents, `[context_tokens, num_kv_heads,
            head_dim]`.
        values: Receives the values, of the same shape; of latents, untouched.
        key_cache: The layer's keys.
        value_cache: The layer's values.
        context: The output rows of each sequence, from its position 0.
    """
    comptime head_dim = kv_params.head_size
    comptime align = min(GPU_VECTOR_BYTES, SHARED_WIDTH * size_of[dtype]())
    var item = Int(block_idx.x) * THREADS + Int(thread_idx.x)
    var head_of_all, piece = divmod(item, head_dim // SHARED_WIDTH)
    var row, head = divmod(head_of_all, kv_params.num_heads)
    if row >= context.num_rows():
        return
    var seq = context.sequence_of(row)
    var position = row - context.start(seq)
    var element = piece * SHARED_WIDTH
    comptime for kv in range(1 if kv_params.is_mla else 2):
        var cache = key_cache if kv == 0 else value_cache
        var codes = cache.block_paged_ptr[1](
            seq, position, head, element
        ).unsafe_load[width=SHARED_WIDTH, alignment=SHARED_WIDTH]()
        var scale = cache.load_scale[1](seq, head, position, element)
        var target = keys if kv == 0 else values
        target.unsafe_store[alignment=align](
            item * SHARED_WIDTH, dequantize(codes, scale).cast[dtype]()
        )


def gather_quantized_gpu[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    //,
](
    keys: Pointer[Scalar[dtype], MutUntrackedOrigin],
    values: Pointer[Scalar[dtype], MutUntrackedOrigin],
    key_cache: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
    value_cache: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
    context: RaggedBatch,
    context_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the gather of keys and values, both in one kernel.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.

    Args:
        keys: Receives the keys, or latents, `[context_tokens, num_kv_heads,
            head_dim]`.
        values: Receives the values, of the same shape; of latents, untouched.
        key_cache: The layer's keys.
        value_cache: The layer's values.
        context: The output rows of each sequence, from its position 0.
        context_tokens: The rows in `keys`.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime per_row = kv_params.num_heads * (
        kv_params.head_size // SHARED_WIDTH
    )
    if context_tokens == 0:
        return
    comptime kernel = gather_quantized_kernel[
        dtype, kv_dtype, kv_params, page_size, quantization
    ]
    ctx.enqueue_function[kernel](
        keys,
        values,
        key_cache,
        value_cache,
        context,
        grid_dim=ceildiv(context_tokens * per_row, THREADS),
        block_dim=THREADS,
    )
