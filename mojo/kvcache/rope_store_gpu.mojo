"""Rotary embedding fused with the store into pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext
from std.sys import align_of, size_of

from .rope import Rope
from .rope_store import RopeStore
from .overlap import (
    await_kernels_before,
    load_after_wait,
    overlapping_launch,
)
from .row_share import ROW_THREADS, RowShare
from .sequence_rows import RowGuess
from .vectors import GPU_VECTOR_BYTES, widest_divisor


def rope_store_kernel[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    width: Int,
    is_decode: Bool,
](
    work: RopeStore[
        dtype, kv_params, page_size, num_q_heads, rope_dim, interleaved
    ],
    total_tokens: Int32,
):
    """Moves one chunk of a head per lane.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
        width: The pairs in a chunk.
        is_decode: Whether there are no more rows than sequences.

    Args:
        work: The tensors of one layer.
        total_tokens: The rows in `qkv`.
    """
    comptime Turn = Rope[work.head_dim, rope_dim, interleaved, width]
    comptime align = width * align_of[Scalar[dtype]]()
    comptime Share = RowShare[work.num_heads * Turn.num_chunks]
    comptime Guess = RowGuess[
        dtype,
        kv_params,
        page_size,
        after_cached=True,
        is_warp_wide=Share.is_warp_wide,
        is_decode=is_decode,
    ]
    await_kernels_before()
    var row, item = Share.row_and_item()
    if row >= Int(total_tokens) or item >= Share.num_items:
        return
    var guess = Guess(work.keys, work.batch, row)
    var head, chunk = divmod(item, Turn.num_chunks)
    var first, second = Turn.places(chunk)
    var source = work.qkv.unsafe_offset(
        (row * work.num_heads + head) * work.head_dim
    )
    var x = load_after_wait[width](source.unsafe_offset(first))
    var y = load_after_wait[width](source.unsafe_offset(second))
    var rows = guess.sequence(work.keys, work.batch, row)
    if not rows.holds(row):
        return
    var offset = guess.token_offset(work.keys, rows, row)
    if head < work.num_turning_heads and Turn.turns(chunk):
        var angles = work.angles(rows.position(row), chunk * width)
        var cosine = load_after_wait[width](angles)
        var sine = load_after_wait[width](angles.unsafe_offset(rope_dim // 2))
        x, y = Turn.turn(x, y, cosine, sine)
    var target = work.target(row, offset, head)
    target.unsafe_store[alignment=align](first, x)
    target.unsafe_store[alignment=align](second, y)


def rope_store_gpu[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    //,
](
    work: RopeStore[
        dtype, kv_params, page_size, num_q_heads, rope_dim, interleaved
    ],
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the rotation and store, all in one kernel.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
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
    comptime width = widest_divisor(
        work.pairs, GPU_VECTOR_BYTES // size_of[dtype]()
    )
    comptime num_chunks = work.head_dim // 2 // width
    comptime Share = RowShare[work.num_heads * num_chunks]
    if total_tokens == 0 or work.batch.batch_size == 0:
        return

    def launch[is_decode: Bool]() raises {imm}:
        comptime kernel = rope_store_kernel[
            dtype,
            kv_params,
            page_size,
            num_q_heads,
            rope_dim,
            interleaved,
            width,
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
