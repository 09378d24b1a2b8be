"""Stores a block's rows into plain pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import thread_idx
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.sys import align_of

from .block_mover import BlockMover
from .block_rows import BlockRows
from .cache import PagedKVCache
from .held_keys import held_place, hold_cached, vector_place
from .overlap import await_kernels_before, load_after_wait
from .ragged import RaggedBatch
from .row_share import RowShare, half_of_even
from .shared_memory import Shared
from .sequence_rows import RowGuess
from .store_gpu import StoreRows
from .vectors import gpu_width

comptime VECTORS_AHEAD = 4
"""The most vectors that a thread asks for before it writes any."""


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

    comptime large_blocks = 3
    """Up to how many thread blocks a multiprocessor large ones are faster."""

    comptime width = gpu_width[Self.dtype](Self.head_dim)
    """The elements of a vector."""

    comptime Vector = SIMD[Self.dtype, Self.width]
    """What a thread moves at once."""

    comptime align = Self.width * align_of[Scalar[Self.dtype]]()
    """The alignment of a vector, in bytes."""

    comptime stride = Self.CacheType.page_layout.token_stride
    """The elements of a row."""

    comptime vectors = Self.stride // Self.width
    """The vectors of a row."""

    comptime DecodeRows = StoreRows[Self.dtype, Self.kv_params, Self.page_size]
    """What stores rows of single tokens."""

    comptime Share[threads: Int] = RowShare[
        half_of_even(Self.vectors),
        threads,
    ]
    """Two vectors of values for each lane.

    Parameters:
        threads: The threads of a block.
    """

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
            self.key_cache, rows, head, held
        )

    @always_inline
    def row_offset(self, rows: BlockRows) -> Int:
        """Looks up where rows go.

        Args:
            rows: The rows; all in one page.

        Returns:
            The elements from the layer's first ones to the first row's.
        """
        return self.key_cache.token_offset(rows.seq, rows.position)

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
        """Copies keys, or values.

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
        comptime vectors = heads * Self.head_dim // Self.width
        comptime place = vector_place[vectors, Self.stride, Self.width]
        comptime ahead = max(
            1, min(VECTORS_AHEAD, block_size * vectors // threads)
        )
        var source = self.keys if kv == 0 else self.values
        var pages = self.key_cache if kv == 0 else self.value_cache
        var first_head = head * Self.head_dim
        source = source.unsafe_offset(rows.first * Self.stride + first_head)
        var target = pages.blocks.ptr.unsafe_offset(offset + first_head)
        var past = rows.num_past[block_size]()
        var num_items = rows.num_rows * vectors
        for first in range(Int(thread_idx.x), num_items, threads * ahead):
            var some = Array[Self.Vector, ahead](fill=0)
            comptime for i in range(ahead):
                var item = first + i * threads
                if item < num_items:
                    some[i] = load_after_wait[Self.width](
                        source.unsafe_offset(place(item))
                    )
            comptime for i in range(ahead):
                var item = first + i * threads
                if item < num_items:
                    target.unsafe_store[alignment=Self.align](
                        place(item), some[i]
                    )
                    comptime if holds:
                        var row, vector = divmod(UInt32(item), UInt32(vectors))
                        held.unsafe_store[alignment=Self.align](
                            held_place[block_size, Self.head_dim](
                                past + Int(row), Int(vector) * Self.width
                            ),
                            some[i],
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
        comptime if not values:
            return 0
        return Self.Share[threads].num_blocks(total_tokens)

    @always_inline
    def move_rows[
        threads: Int, *, values: Bool
    ](self, block: Int, *, batch: RaggedBatch, total_tokens: Int):
        """Copies values, if wanted: two vectors a lane.

        Where they go is looked up first, then kernels before are waited for.

        Parameters:
            threads: The threads of a block.
            values: Whether values are among what is moved.

        Args:
            block: The thread block, below `num_blocks`.
            batch: The rows of each sequence.
            total_tokens: The rows of all sequences.
        """
        comptime Share = Self.Share[threads]
        comptime together = Self.vectors // Share.num_items
        comptime Guess = RowGuess[
            Self.dtype,
            Self.kv_params,
            Self.page_size,
            after_cached=True,
            is_warp_wide=Share.is_warp_wide,
            is_decode=False,
        ]
        var row, item = Share.row_and_item(block)
        if row >= total_tokens or item >= Share.num_items:
            return
        var guess = Guess(self.key_cache, batch, row)
        var element = item * Self.width
        var source = row * Self.stride + element
        var rows = guess.sequence(self.key_cache, batch, row)
        if not rows.holds(row):
            return
        var target = guess.token_offset(self.key_cache, rows, row) + element
        await_kernels_before()
        var some = Array[Self.Vector, together](fill=0)
        comptime for i in range(together):
            some[i] = load_after_wait[Self.width](
                self.values.unsafe_offset(
                    source + i * Share.num_items * Self.width
                )
            )
        comptime for i in range(together):
            self.value_cache.blocks.ptr.unsafe_store[alignment=Self.align](
                target + i * Share.num_items * Self.width, some[i]
            )

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
        Self.DecodeRows.move[is_decode=True](
            block,
            self.keys,
            self.values,
            self.key_cache,
            self.value_cache.blocks.ptr,
            batch,
            total_tokens,
        )
