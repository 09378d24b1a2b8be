"""Quantises the keys and values of a ragged batch into pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv

from .quantized_lanes import Piece, keep_piece, lanes_of, load_piece
from .quantized_pages import QuantizedPages
from .ragged import RaggedBatch
from .scales import SHARED_WIDTH, Quantization
from .vectors import THREADS


def store_quantized_kernel[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    pages: QuantizedPages[kv_dtype, kv_params, page_size, quantization],
    batch: RaggedBatch,
):
    """Keeps eight elements of a key and of a value per thread.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.

    Args:
        keys: The new keys, `[total_tokens, num_kv_heads, head_dim]`.
        values: The new values, of the same shape.
        pages: The layer's keys and values.
        batch: The rows of each sequence.
    """
    comptime head_dim = kv_params.head_size
    var item = Int(block_idx.x) * THREADS + Int(thread_idx.x)
    var head_of_all, lane = divmod(item, lanes_of(head_dim))
    var row, head = divmod(head_of_all, kv_params.num_heads)
    var element = lane * SHARED_WIDTH
    var is_there = row < batch.num_rows() and element < head_dim
    var seq, position, is_first = 0, 0, False
    var key, value = Piece(0), Piece(0)
    if is_there:
        seq = batch.sequence_of(row)
        position = pages.keys.cache_length(seq) + row - batch.start(seq)
        is_first = row == batch.start(seq) or position % page_size == 0
        var source = head_of_all * head_dim + element
        key, value = load_piece(keys, source), load_piece(values, source)
    comptime for kv in range(2):
        keep_piece[kv](
            pages,
            key if kv == 0 else value,
            seq=seq,
            position=position,
            head=head,
            element=element,
            is_there=is_there,
            is_first=is_first,
        )


def store_quantized_gpu[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    //,
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    pages: QuantizedPages[kv_dtype, kv_params, page_size, quantization],
    batch: RaggedBatch,
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the store of keys and values, both in one kernel.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.

    Args:
        keys: The new keys, `[total_tokens, num_kv_heads, head_dim]`.
        values: The new values, of the same shape.
        pages: The layer's keys and values.
        batch: The rows of each sequence.
        total_tokens: The rows in `keys`.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime per_row = kv_params.num_heads * lanes_of(kv_params.head_size)
    if total_tokens == 0:
        return
    comptime kernel = store_quantized_kernel[
        dtype, kv_dtype, kv_params, page_size, quantization
    ]
    ctx.enqueue_function[kernel](
        keys,
        values,
        pages,
        batch,
        grid_dim=ceildiv(total_tokens * per_row, THREADS),
        block_dim=THREADS,
    )
