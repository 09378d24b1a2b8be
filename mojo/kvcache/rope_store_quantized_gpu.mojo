"""Rotary embedding fused with the store into quantised pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import barrier, thread_idx
from max.gpu.host import DeviceContext
from std.memory import AddressSpace, stack_allocation

from .overlap import await_kernels_before, overlapping_launch
from .quantized_lanes import Piece, keep_piece, lanes_of, load_piece
from .rope_store_quantized import RopeStoreQuantized
from .row_share import ROW_THREADS, RowShare
from .scales import SHARED_WIDTH, Quantization
from .sequence_rows import RowGuess, SequenceRows
from .vectors import GPU_VECTOR_BYTES, widest_divisor


def rope_store_quantized_kernel[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    is_decode: Bool,
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
    total_tokens: Int32,
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
        is_decode: Whether there are no more rows than sequences.

    Args:
        work: The tensors of one layer.
        total_tokens: The rows in `qkv`.
    """
    comptime head_dim = work.head_dim
    comptime lanes = lanes_of(head_dim)
    comptime width = widest_divisor(work.pairs, SHARED_WIDTH // 2)
    comptime Share = RowShare[work.num_heads * lanes]
    comptime Guess = RowGuess[
        kv_dtype,
        kv_params,
        page_size,
        after_cached=True,
        is_warp_wide=Share.is_warp_wide,
        is_decode=is_decode,
        quantization=quantization,
    ]
    var heads = stack_allocation[
        ROW_THREADS // lanes * head_dim,
        Scalar[dtype],
        alignment=GPU_VECTOR_BYTES,
        address_space=AddressSpace.SHARED,
    ]()
    await_kernels_before()
    var row, item = Share.row_and_item()
    var head, lane = divmod(item, lanes)
    var kept = heads.unsafe_offset(
        Int(thread_idx.x) // lanes * head_dim
    ).unsafe_address_space_cast[AddressSpace.GENERIC]()
    var rows = SequenceRows()
    if row < Int(total_tokens):
        var guess = Guess(work.pages.keys, work.batch, row)
        rows = guess.sequence(work.pages.keys, work.batch, row)
    var is_head = rows.holds(row) and item < Share.num_items
    var position = rows.position(row)
    if is_head:
        for chunk in range(lane, head_dim // 2 // width, lanes):
            work.turn_chunk[width](kept, row, position, head, chunk)
    barrier()
    var element = lane * SHARED_WIDTH
    var is_piece = is_head and head >= num_q_heads and element < head_dim
    var piece = Piece(0)
    if is_piece:
        piece = load_piece(kept, element)
    comptime for kv in range(2):
        var kv_head = head - num_q_heads - kv * kv_params.num_heads
        keep_piece[kv](
            work.pages,
            piece,
            seq=rows.seq,
            position=position,
            head=kv_head,
            element=element,
            is_there=is_piece and 0 <= kv_head < kv_params.num_heads,
            is_first=row == rows.start or position % page_size == 0,
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
    comptime Share = RowShare[work.num_heads * lanes_of(work.head_dim)]
    if total_tokens == 0 or work.batch.batch_size == 0:
        return

    def launch[is_decode: Bool]() raises {imm}:
        comptime kernel = rope_store_quantized_kernel[
            dtype,
            kv_dtype,
            kv_params,
            page_size,
            quantization,
            num_q_heads,
            rope_dim,
            interleaved,
            is_decode,
        ]
        ctx.enqueue_function[kernel](
            work,
            Int32(total_tokens),
            grid_dim=Share.num_blocks(total_tokens),
            block_dim=ROW_THREADS,
            attributes=overlapping_launch(),
        )

    if total_tokens <= Int(work.batch.batch_size):
        launch[True]()
    else:
        launch[False]()
