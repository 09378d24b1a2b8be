"""What stores a block's rows into plain pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import thread_idx
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.sys import align_of, size_of

from .block_rows import BlockRows
from .cache import PagedKVCache
from .overlap import load_after_wait
from .rope import Rope
from .rope_store import RopeStore
from .shared_memory import Shared
from .store_blocks_gpu import BlockMover
from .vectors import GPU_VECTOR_BYTES, THREADS, gpu_width, widest_divisor

comptime VECTORS_AHEAD = 2
"""The vectors that a thread asks for before it writes any."""


struct StoreMover[dtype: DType, kv_params: KVCacheStaticParams, page_size: Int](
    BlockMover
):
    """Copies keys and values as they are.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime CacheType = PagedKVCache[
        Self.dtype, Self.kv_params, Self.page_size
    ]
    """The view of one layer's keys or values."""

    comptime row_dtype = Self.dtype
    """The element type of the pages."""

    comptime num_heads = Self.kv_params.num_heads
    """The key-value heads."""

    comptime head_dim = Self.kv_params.head_size
    """The elements per head."""

    var keys: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin]
    """The new keys, `[total_tokens, num_kv_heads, head_dim]`."""

    var values: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin]
    """The new values, of the same shape."""

    var key_cache: Self.CacheType
    """The layer's keys."""

    var value_cache: Self.CacheType
    """The layer's values."""

    def __init__(
        out self,
        keys: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin],
        values: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin],
        key_cache: Self.CacheType,
        value_cache: Self.CacheType,
    ):
        """Collects the tensors of one layer.

        Args:
            keys: The new keys, `[total_tokens, num_kv_heads, head_dim]`.
            values: The new values, of the same shape.
            key_cache: The layer's keys.
            value_cache: The layer's values, over the same tables.
        """
        self.keys = keys
        self.values = values
        self.key_cache = key_cache
        self.value_cache = value_cache

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
        return "StoreMover"

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
        _hold[heads, block_size](self.key_cache, rows, head, held)

    @always_inline
    def move[
        heads: Int, block_size: Int, holds: Bool
    ](self, rows: BlockRows, head: Int, held: Shared[Scalar[Self.row_dtype]]):
        """Copies keys and values.

        Parameters:
            heads: How many heads.
            block_size: The tokens per block.
            holds: Whether keys are held in shared memory as well.

        Args:
            rows: The rows, at least one; all in one page.
            head: The first head.
            held: The keys, `[heads, block_size, head_dim]`.
        """
        comptime stride = Self.CacheType.page_layout.token_stride
        comptime width = gpu_width[Self.dtype](Self.head_dim)
        comptime align = width * align_of[Scalar[Self.dtype]]()
        comptime vectors = heads * Self.head_dim // width
        var source = rows.first * stride + head * Self.head_dim
        var keys = self.keys.unsafe_offset(source)
        var values = self.values.unsafe_offset(source)
        var target = self.key_cache.token_offset(rows.seq, rows.position)
        target += head * Self.head_dim
        var past = rows.num_past[block_size]()
        var num_items = rows.num_rows * vectors
        var thread = Int(thread_idx.x)
        for first in range(thread, num_items, THREADS * VECTORS_AHEAD):
            var some = Array[SIMD[Self.dtype, width], 2 * VECTORS_AHEAD](fill=0)
            comptime for i in range(VECTORS_AHEAD):
                var item = first + i * THREADS
                if item < num_items:
                    var element = _element[vectors, stride, width](item)
                    some[2 * i] = load_after_wait[width](
                        keys.unsafe_offset(element)
                    )
                    some[2 * i + 1] = load_after_wait[width](
                        values.unsafe_offset(element)
                    )
            comptime for i in range(VECTORS_AHEAD):
                var item = first + i * THREADS
                if item < num_items:
                    var element = _element[vectors, stride, width](item)
                    self.key_cache.blocks.ptr.unsafe_store[alignment=align](
                        target + element, some[2 * i]
                    )
                    self.value_cache.blocks.ptr.unsafe_store[alignment=align](
                        target + element, some[2 * i + 1]
                    )
                    comptime if holds:
                        var row, vector = divmod(UInt32(item), UInt32(vectors))
                        held.unsafe_store[alignment=align](
                            _held[block_size, Self.head_dim](
                                past + Int(row), Int(vector) * width
                            ),
                            some[2 * i],
                        )


@always_inline
def _element[vectors: Int, stride: Int, width: Int](item: Int) -> Int:
    """Returns where a vector is, behind the first row's first one."""
    var row, vector = divmod(UInt32(item), UInt32(vectors))
    return Int(row) * stride + Int(vector) * width


@always_inline
def _held[block_size: Int, head_dim: Int](row: Int, element: Int) -> Int:
    """Returns where an element of a row's heads is held."""
    var head, dim = divmod(UInt32(element), UInt32(head_dim))
    return (Int(head) * block_size + row) * head_dim + Int(dim)


@always_inline
def _hold[
    dtype: DType, //, heads: Int, block_size: Int
](
    cache: PagedKVCache[dtype, ...],
    rows: BlockRows,
    head: Int,
    held: Shared[Scalar[dtype]],
):
    """Reads the keys of a block that come before its new rows."""
    comptime head_dim = cache.kv_params.head_size
    comptime stride = cache.page_layout.token_stride
    comptime width = gpu_width[dtype](head_dim)
    comptime align = width * align_of[Scalar[dtype]]()
    comptime vectors = heads * head_dim // width
    var past = rows.num_past[block_size]()
    if past == 0:
        return
    var source = cache.blocks.ptr.unsafe_offset(
        cache.token_offset(rows.seq, rows.position - past) + head * head_dim
    )
    for item in range(Int(thread_idx.x), past * vectors, THREADS):
        var row, vector = divmod(UInt32(item), UInt32(vectors))
        held.unsafe_store[alignment=align](
            _held[block_size, head_dim](Int(row), Int(vector) * width),
            load_after_wait[width](
                source.unsafe_offset(_element[vectors, stride, width](item))
            ),
        )


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
        _hold[heads, block_size](self.work.keys, rows, head, held)

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
