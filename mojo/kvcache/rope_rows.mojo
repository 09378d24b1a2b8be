"""Rotates queries row by row, and moves what goes with them, on a GPU."""

from kv_cache.types import KVCacheStaticParams

from .head_chunk import Angles, HeadChunk
from .overlap import await_kernels_before
from .rope_store import RopeStore
from .row_share import RowShare, half_of_even
from .sequence_rows import RowGuess


struct RopeRows[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    width: Int,
    *,
    threads: Int,
    values: Bool,
]:
    """A share of the rows for each thread block.

    A lane has the same chunk of two heads, which share their angles.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
        width: The pairs of a chunk.
        threads: The threads of a block.
        values: Whether values are among what is moved.
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

    comptime Chunk = HeadChunk[
        Self.dtype,
        Self.kv_params.head_size,
        Self.rope_dim,
        Self.interleaved,
        Self.width,
    ]
    """What a lane moves at once."""

    comptime moved_heads = Self.num_q_heads + Self.kv_params.num_heads * Int(
        Self.values
    )
    """The heads of a row that are moved."""

    comptime Share = RowShare[
        half_of_even(Self.moved_heads) * Self.Chunk.Turn.num_chunks,
        Self.threads,
    ]
    """What each lane has."""

    @staticmethod
    @always_inline
    def num_blocks(total_tokens: Int) -> Int:
        """Returns how many thread blocks share the rows.

        Args:
            total_tokens: The rows of all sequences.

        Returns:
            The blocks.
        """
        return Self.Share.num_blocks(total_tokens)

    @staticmethod
    @always_inline
    def move(work: Self.Work, block: Int, total_tokens: Int):
        """Moves a thread block's share.

        Where it goes is looked up first, then kernels before are waited for.

        Args:
            work: The tensors of one layer.
            block: The thread block, below `num_blocks`.
            total_tokens: The rows of all sequences.
        """
        comptime chunks = Self.Chunk.Turn.num_chunks
        comptime together = Self.moved_heads * chunks // Self.Share.num_items
        comptime Guess = RowGuess[
            Self.dtype,
            Self.kv_params,
            Self.page_size,
            after_cached=True,
            is_warp_wide=Self.Share.is_warp_wide,
            is_decode=False,
        ]
        var row, item = Self.Share.row_and_item(block)
        if row >= total_tokens or item >= Self.Share.num_items:
            return
        var guess = Guess(work.keys, work.batch, row)
        var own, chunk = divmod(item, chunks)
        var rows = guess.sequence(work.keys, work.batch, row)
        if not rows.holds(row):
            return
        var offset = guess.token_offset(work.keys, rows, row)
        await_kernels_before()
        var some = Array[Self.Chunk, together](fill=Self.Chunk())
        var heads = Array[Int, together](fill=own)
        comptime for i in range(together):
            heads[i] = own + i * (Self.Share.num_items // chunks)
            if heads[i] >= Self.num_q_heads:
                heads[i] += Self.kv_params.num_heads
            some[i] = Self.Chunk(work.source(row, heads[i]), chunk)
        var angles = Angles[Self.rope_dim, Self.width]()
        if heads[0] < Self.Work.num_turning_heads:
            angles = Self.Chunk.angles(
                work.angles(rows.position(row), 0), chunk
            )
        comptime for i in range(together):
            if heads[i] < Self.Work.num_turning_heads:
                some[i].turn(angles, chunk)
            some[i].store(work.target(row, offset, heads[i]), chunk)
