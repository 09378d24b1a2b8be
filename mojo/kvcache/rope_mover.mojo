"""Rotates a block's rows and stores them into plain pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import thread_idx
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.sys import align_of, size_of

from .block_rows import BlockRows
from .held_keys import hold_cached
from .overlap import load_after_wait
from .rope import Rope
from .rope_store import RopeStore
from .shared_memory import Shared
from .store_blocks_gpu import BlockMover
from .vectors import GPU_VECTOR_BYTES, THREADS, widest_divisor


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

    comptime width = widest_divisor(
        Self.Work.pairs, GPU_VECTOR_BYTES // size_of[Self.dtype]()
    )
    """The pairs of a chunk."""

    comptime Turn = Rope[
        Self.kv_params.head_size, Self.rope_dim, Self.interleaved, Self.width
    ]
    """The rotation of a head."""

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
    def hold[
        heads: Int, block_size: Int
    ](self, rows: BlockRows, head: Int, held: Shared[Scalar[Self.row_dtype]]):
        """Reads keys of the block that were stored before.

        Parameters:
            heads: How many heads.
            block_size: The tokens per block.

        Args:
            rows: The rows that follow them.
            head: The first head.
            held: Receives the keys, `[heads, block_size, head_dim]`.
        """
        hold_cached[heads, block_size](self.work.keys, rows, head, held)

    @always_inline
    def move[
        heads: Int, block_size: Int, holds: Bool
    ](self, rows: BlockRows, head: Int, held: Shared[Scalar[Self.row_dtype]]):
        """Rotates keys and the queries of their heads, and copies values.

        Parameters:
            heads: How many heads.
            block_size: The tokens per block.
            holds: Whether keys are held in shared memory as well.

        Args:
            rows: The rows, at least one; all in one page.
            head: The first head.
            held: The keys, `[heads, block_size, head_dim]`.
        """
        comptime group = Self.num_q_heads // Self.num_heads
        self._move[heads, block_size, True, holds](
            rows, Self.num_q_heads + head, held
        )
        self._move[heads, block_size, False, False](
            rows, Self.Work.num_turning_heads + head, held
        )
        self._move[heads * group, block_size, True, False](
            rows, head * group, held
        )

    @always_inline
    def _move[
        heads: Int, block_size: Int, turns: Bool, holds: Bool
    ](self, rows: BlockRows, head: Int, held: Shared[Scalar[Self.row_dtype]]):
        """Moves heads that lie side by side in the rows of `qkv`."""
        comptime stride = Self.Work.CacheType.page_layout.token_stride
        comptime chunks = heads * Self.Turn.num_chunks
        comptime align = Self.width * align_of[Scalar[Self.dtype]]()
        var offset = self.work.keys.token_offset(rows.seq, rows.position)
        var past = rows.num_past[block_size]()
        for item in range(Int(thread_idx.x), rows.num_rows * chunks, THREADS):
            var row, place = divmod(UInt32(item), UInt32(chunks))
            var own, chunk = divmod(place, UInt32(Self.Turn.num_chunks))
            var first, second = Self.Turn.places(Int(chunk))
            var index = rows.first + Int(row)
            var source = self.work.qkv.unsafe_offset(
                (index * self.work.num_heads + head + Int(own)) * Self.head_dim
            )
            var x = load_after_wait[Self.width](source.unsafe_offset(first))
            var y = load_after_wait[Self.width](source.unsafe_offset(second))
            if turns and Self.Turn.turns(Int(chunk)):
                var angles = self.work.angles(
                    rows.position + Int(row), Int(chunk) * Self.width
                )
                x, y = Self.Turn.turn(
                    x,
                    y,
                    load_after_wait[Self.width](angles),
                    load_after_wait[Self.width](
                        angles.unsafe_offset(Self.rope_dim // 2)
                    ),
                )
            var target = self.work.target(
                index, offset + Int(row) * stride, head + Int(own)
            )
            target.unsafe_store[alignment=align](first, x)
            target.unsafe_store[alignment=align](second, y)
            comptime if holds:
                var place = past + Int(row) + Int(own) * block_size
                place *= Self.head_dim
                held.unsafe_store[alignment=align](place + first, x)
                held.unsafe_store[alignment=align](place + second, y)
