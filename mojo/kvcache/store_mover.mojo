"""Stores a block's rows into plain pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import thread_idx
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.sys import align_of

from .block_rows import BlockRows
from .cache import PagedKVCache
from .held_keys import held_place, hold_cached, vector_place
from .overlap import load_after_wait
from .shared_memory import Shared
from .store_blocks_gpu import BlockMover
from .vectors import THREADS, gpu_width

comptime VECTORS_AHEAD = 2
"""The keys, and the values, that a thread asks for before it writes any."""


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
        hold_cached[heads, block_size](self.key_cache, rows, head, held)

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
                    var element = vector_place[vectors, stride, width](item)
                    some[2 * i] = load_after_wait[width](
                        keys.unsafe_offset(element)
                    )
                    some[2 * i + 1] = load_after_wait[width](
                        values.unsafe_offset(element)
                    )
            comptime for i in range(VECTORS_AHEAD):
                var item = first + i * THREADS
                if item < num_items:
                    var element = vector_place[vectors, stride, width](item)
                    self.key_cache.blocks.ptr.unsafe_store[alignment=align](
                        target + element, some[2 * i]
                    )
                    self.value_cache.blocks.ptr.unsafe_store[alignment=align](
                        target + element, some[2 * i + 1]
                    )
                    comptime if holds:
                        var row, vector = divmod(UInt32(item), UInt32(vectors))
                        held.unsafe_store[alignment=align](
                            held_place[block_size, Self.head_dim](
                                past + Int(row), Int(vector) * width
                            ),
                            some[2 * i],
                        )
