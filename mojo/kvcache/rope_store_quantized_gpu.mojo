"""Rotary embedding fused with the store into quantised pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.memory import AddressSpace, stack_allocation

from .quantized_lanes import Piece, keep_piece, lanes_of, load_piece
from .rope_store_quantized import RopeStoreQuantized
from .scales import SHARED_WIDTH, Quantization
from .vectors import GPU_VECTOR_BYTES, THREADS, widest_divisor


def rope_store_quantized_kernel[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
](
    work: RopeStoreQuantized[
        dtype,
        kv_dtype,
        kv_params,
        page_size,
        quantization,
        num_q_heads,
        rope_dim,
        interleaved,
    ]
):
    """Turns heads in shared memory, then quantises them from there.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.

    Args:
        work: The tensors of one layer.
    """
    comptime head_dim = work.head_dim
    comptime lanes = lanes_of(head_dim)
    comptime width = widest_divisor(work.pairs, SHARED_WIDTH // 2)
    var heads = stack_allocation[
        THREADS // lanes * head_dim,
        Scalar[dtype],
        alignment=GPU_VECTOR_BYTES,
        address_space=AddressSpace.SHARED,
    ]()
    var place, lane = divmod(Int(thread_idx.x), lanes)
    var kept = heads.unsafe_offset(place * head_dim).unsafe_address_space_cast[
        AddressSpace.GENERIC
    ]()
    var item = Int(block_idx.x) * (THREADS // lanes) + place
    var row, head = divmod(item, work.num_heads)
    var is_row = row < work.batch.num_rows()
    var seq, position, is_first = 0, 0, False
    if is_row:
        seq = work.batch.sequence_of(row)
        var first = work.batch.start(seq)
        position = work.pages.keys.cache_length(seq) + row - first
        is_first = row == first or position % page_size == 0
        for chunk in range(lane, head_dim // 2 // width, lanes):
            work.turn_chunk[width](kept, row, position, head, chunk)
    barrier()
    var element = lane * SHARED_WIDTH
    var is_piece = is_row and head >= num_q_heads and element < head_dim
    var piece = Piece(0)
    if is_piece:
        piece = load_piece(kept, element)
    comptime for kv in range(2):
        var kv_head = head - num_q_heads - kv * kv_params.num_heads
        keep_piece[kv](
            work.pages,
            piece,
            seq=seq,
            position=position,
            head=kv_head,
            element=element,
            is_there=is_piece and 0 <= kv_head < kv_params.num_heads,
            is_first=is_first,
        )


def rope_store_quantized_gpu[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    //,
](
    work: RopeStoreQuantized[
        dtype,
        kv_dtype,
        kv_params,
        page_size,
        quantization,
        num_q_heads,
        rope_dim,
        interleaved,
    ],
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches rotation, quantisation and store, all in one kernel.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.

    Args:
        work: The tensors of one layer.
        total_tokens: The rows in `qkv`.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime heads_per_block = THREADS // lanes_of(work.head_dim)
    if total_tokens == 0:
        return
    comptime kernel = rope_store_quantized_kernel[
        dtype,
        kv_dtype,
        kv_params,
        page_size,
        quantization,
        num_q_heads,
        rope_dim,
        interleaved,
    ]
    ctx.enqueue_function[kernel](
        work,
        grid_dim=ceildiv(total_tokens * work.num_heads, heads_per_block),
        block_dim=THREADS,
    )
