"""Rotates a block's rows and stores them into plain pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import thread_idx
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.sys import size_of

from .block_mover import BlockMover
from .block_rows import BlockRows
from .head_chunk import Angles, HeadChunk
from .held_keys import hold_cached
from .ragged import RaggedBatch
from .rope import Rope
from .rope_rows import RopeRows
from .rope_store import RopeStore
from .rope_store_gpu import RopeStoreRows
from .shared_memory import Shared
from .vectors import GPU_VECTOR_BYTES, widest_divisor

comptime CHUNKS_AHEAD = 1
"""The chunks of keys, or values, that a thread loads before it stores any."""


struct RopeMover[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
](BlockMover):
    """Rotates queries and keys, and copies values.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime Work = RopeStore[
        Self.dtype,
        Self.kv_params,
        Self.page_size,
        Self.num_q_heads,
        Self.rope_dim,
        Self.interleaved,
    ]
    """What is done with a row."""

    comptime row_dtype = Self.dtype
    """The element type of the pages."""

    comptime num_heads = Self.kv_params.num_heads
    """The key-value heads."""

    comptime head_dim = Self.kv_params.head_size
    """The elements per head."""

    comptime large_blocks = 1
    """Up to how many thread blocks a multiprocessor large ones are faster."""

    comptime width = widest_divisor(
        Self.Work.pairs, GPU_VECTOR_BYTES // size_of[Self.dtype]()
    )
    """The pairs of a chunk."""

    comptime Turn = Rope[
        Self.kv_params.head_size, Self.rope_dim, Self.interleaved, Self.width
    ]
    """The rotation of a head."""

    comptime Chunk = HeadChunk[
        Self.dtype,
        Self.kv_params.head_size,
        Self.rope_dim,
        Self.interleaved,
        Self.width,
    ]
    """What a thread moves at once."""

    comptime ChunkAngles = Angles[Self.rope_dim, Self.width]
    """What turns it."""

    comptime stride = Self.Work.CacheType.page_layout.token_stride
    """The elements of a token in a page."""

    comptime Rows[threads: Int, values: Bool] = RopeRows[
        Self.dtype,
        Self.kv_params,
        Self.page_size,
        Self.num_q_heads,
        Self.rope_dim,
        Self.interleaved,
        Self.width,
        threads=threads,
        values=values,
    ]
    """What moves rows.

    Parameters:
        threads: The threads of a block.
        values: Whether values are among what is moved.
    """

    comptime DecodeRows = RopeStoreRows[
        Self.dtype,
        Self.kv_params,
        Self.page_size,
        Self.num_q_heads,
        Self.rope_dim,
        Self.interleaved,
    ]
    """What stores rows of single tokens."""

    var work: Self.Work
    """The tensors of one layer."""

    def __init__(out self, work: Self.Work):
        """Wraps the tensors of one layer.

        Args:
            work: The tensors.
        """
        self.work = work

    def _to_device_type(
        self, mut encoder: Some[DeviceTypeEncoder], target: MutOpaquePointer[_]
    ):
        encoder.encode(self, target)

    @staticmethod
    def get_type_name() -> String:
        """Returns the name of this type.

        Returns:
            The name.
        """
        return "RopeMover"

    @always_inline
    def hold_cached[
        heads: Int, block_size: Int, threads: Int
    ](self, rows: BlockRows, head: Int, held: Shared[Scalar[Self.row_dtype]]):
        """Reads keys of the block that were stored before.

        Parameters:
            heads: How many heads.
            block_size: The tokens per block.
            threads: The threads of the block.

        Args:
            rows: The rows that follow them.
            head: The first head.
            held: Receives the keys, `[heads, block_size, head_dim]`.
        """
        hold_cached[heads, block_size, threads](
            self.work.keys, rows, head, held
        )

    @always_inline
    def row_offset(self, rows: BlockRows) -> Int:
        """Looks up where rows go.

        Args:
            rows: The rows; all in one page.

        Returns:
            The elements from the layer's first ones to the first row's.
        """
        return self.work.keys.token_offset(rows.seq, rows.position)

    @always_inline
    def move_block[
        heads: Int, block_size: Int, threads: Int, *, kv: Int, holds: Bool
    ](
        self,
        rows: BlockRows,
        offset: Int,
        head: Int,
        held: Shared[Scalar[Self.row_dtype]],
    ):
        """Rotates keys, or copies values.

        Parameters:
            heads: How many heads.
            block_size: The tokens per block.
            threads: The threads of the block.
            kv: 0 for keys, 1 for values.
            holds: Whether shared memory receives them, too.

        Args:
            rows: The rows, at least one; all in one page.
            offset: What `row_offset` gave.
            head: The first head.
            held: The keys, `[heads, block_size, head_dim]`.
        """
        comptime chunks = Self.Turn.num_chunks
        var first_head = head + Self.num_q_heads + kv * Self.num_heads
        var past = rows.num_past[block_size]()
        var num_items = rows.num_rows * heads * chunks
        for begin in range(
            Int(thread_idx.x), num_items, threads * CHUNKS_AHEAD
        ):
            var some = Array[Self.Chunk, CHUNKS_AHEAD](fill=Self.Chunk())
            var angles = Array[Self.ChunkAngles, CHUNKS_AHEAD](
                fill=Self.ChunkAngles()
            )
            comptime for i in range(CHUNKS_AHEAD):
                var item = begin + i * threads
                if item < num_items:
                    var row, own, chunk = _split[heads, chunks](item)
                    some[i] = Self.Chunk(
                        self.work.source(rows.first + row, first_head + own),
                        chunk,
                    )
                    comptime if kv == 0:
                        angles[i] = Self.Chunk.angles(
                            self.work.angles(rows.position + row, 0), chunk
                        )
            comptime for i in range(CHUNKS_AHEAD):
                var item = begin + i * threads
                if item < num_items:
                    var row, own, chunk = _split[heads, chunks](item)
                    comptime if kv == 0:
                        some[i].turn(angles[i], chunk)
                    var target = self.work.target(
                        rows.first + row,
                        offset + row * Self.stride,
                        first_head + own,
                    )
                    some[i].store(target, chunk)
                    comptime if holds:
                        var place = own * block_size + past + row
                        some[i].store(
                            held.unsafe_offset(place * Self.head_dim), chunk
                        )

    @staticmethod
    @always_inline
    def num_blocks[threads: Int, *, values: Bool](total_tokens: Int) -> Int:
        """Returns how many thread blocks `move_rows` is to have.

        Parameters:
            threads: The threads of a block.
            values: Whether values are among what is moved.

        Args:
            total_tokens: The rows of all sequences.

        Returns:
            The blocks; none where nothing is left to move.
        """
        return Self.Rows[threads, values].num_blocks(total_tokens)

    @always_inline
    def move_rows[
        threads: Int, *, values: Bool
    ](self, block: Int, *, batch: RaggedBatch, total_tokens: Int):
        """Rotates queries, and copies values if wanted.

        Where they go is looked up first, then kernels before are waited for.

        Parameters:
            threads: The threads of a block.
            values: Whether values are among what is moved.

        Args:
            block: The thread block, below `num_blocks`.
            batch: The rows of each sequence.
            total_tokens: The rows of all sequences.
        """
        Self.Rows[threads, values].move(self.work, block, total_tokens)

    @staticmethod
    @always_inline
    def num_row_blocks(total_tokens: Int) -> Int:
        """Returns how many thread blocks `store_rows` is to have.

        Args:
            total_tokens: The rows of all sequences.

        Returns:
            The blocks, of `ROW_THREADS` threads.
        """
        return Self.DecodeRows.Share.num_blocks(total_tokens)

    @always_inline
    def store_rows(self, block: Int, *, batch: RaggedBatch, total_tokens: Int):
        """Moves all that a thread block's share of a decode step has.

        Args:
            block: The thread block, below `num_row_blocks`.
            batch: The rows of each sequence.
            total_tokens: The rows of all sequences.
        """
        Self.DecodeRows.move[is_decode=True](block, self.work, total_tokens)


@always_inline
def _split[heads: Int, chunks: Int](item: Int) -> Tuple[Int, Int, Int]:
    """Returns the row, the head and the chunk of an item."""
    var row, place = divmod(UInt32(item), UInt32(heads * chunks))
    var head, chunk = divmod(place, UInt32(chunks))
    return Int(row), Int(head), Int(chunk)
