"""Rotary embedding fused with the store into pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import block_idx
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


struct RopeStoreRows[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
]:
    """A share of the rows for each thread block.

    A lane has one chunk of a head: of a query, a key or a value.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
    """

    comptime Work = RopeStore[
        Self.dtype,
        Self.kv_params,
        Self.page_size,
        Self.num_q_heads,
        Self.rope_dim,
        Self.interleaved,
    ]
    """What is done with a row."""

    comptime width = widest_divisor(
        Self.Work.pairs, GPU_VECTOR_BYTES // size_of[Self.dtype]()
    )
    """The pairs in a chunk."""

    comptime align = Self.width * align_of[Scalar[Self.dtype]]()
    """The alignment of a vector, in bytes."""

    comptime Turn = Rope[
        Self.Work.head_dim, Self.rope_dim, Self.interleaved, Self.width
    ]
    """The rotation of a head."""

    comptime Share = RowShare[Self.Work.num_heads * Self.Turn.num_chunks]
    """What each lane has."""

    @staticmethod
    @always_inline
    def move[is_decode: Bool](block: Int, work: Self.Work, total_tokens: Int):
        """Moves a thread block's share.

        Parameters:
            is_decode: Whether there are no more rows than sequences.

        Args:
            block: The thread block, below `Share.num_blocks`.
            work: The tensors of one layer.
            total_tokens: The rows in `qkv`.
        """
        comptime Guess = RowGuess[
            Self.dtype,
            Self.kv_params,
            Self.page_size,
            after_cached=True,
            is_warp_wide=Self.Share.is_warp_wide,
            is_decode=is_decode,
        ]
        var row, item = Self.Share.row_and_item(block)
        if row >= total_tokens or item >= Self.Share.num_items:
            return
        var guess = Guess(work.keys, work.batch, row)
        var head, chunk = divmod(item, Self.Turn.num_chunks)
        var first, second = Self.Turn.places(chunk)
        var source = work.qkv.unsafe_offset(
            (row * work.num_heads + head) * work.head_dim
        )
        var x = load_after_wait[Self.width](source.unsafe_offset(first))
        var y = load_after_wait[Self.width](source.unsafe_offset(second))
        var rows = guess.sequence(work.keys, work.batch, row)
        if not rows.holds(row):
            return
        var offset = guess.token_offset(work.keys, rows, row)
        if head < work.num_turning_heads and Self.Turn.turns(chunk):
            var angles = work.angles(rows.position(row), chunk * Self.width)
            var cosine = load_after_wait[Self.width](angles)
            var sine = load_after_wait[Self.width](
                angles.unsafe_offset(Self.rope_dim // 2)
            )
            x, y = Self.Turn.turn(x, y, cosine, sine)
        var target = work.target(row, offset, head)
        target.unsafe_store[alignment=Self.align](first, x)
        target.unsafe_store[alignment=Self.align](second, y)


def rope_store_kernel[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    is_decode: Bool,
](
    work: RopeStore[
        dtype, kv_params, page_size, num_q_heads, rope_dim, interleaved
    ],
    total_tokens: Int32,
):
    """Moves the grid's rows.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
        is_decode: Whether there are no more rows than sequences.

    Args:
        work: The tensors of one layer.
        total_tokens: The rows in `qkv`.
    """
    await_kernels_before()
    RopeStoreRows[
        dtype, kv_params, page_size, num_q_heads, rope_dim, interleaved
    ].move[is_decode](Int(block_idx.x), work, Int(total_tokens))


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
    comptime Share = RopeStoreRows[
        dtype, kv_params, page_size, num_q_heads, rope_dim, interleaved
    ].Share
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
