"""Brings blocks of keys and values into shared memory.

The rows lie in panels as wide as the swizzle of the tensor cores reaches. A
block of keys is loaded while the one before it is attended to. Codes are loaded
as they are, and turned into halves when their turn has come.
"""

from max.gpu import thread_idx
from max.gpu.memory import async_copy, async_copy_commit_group
from std.memory import AddressSpace

from .codes_gpu import halves
from .prefill_call import PrefillCall
from .prefill_shape import CHUNK, PrefillShape, place_of
from .prefill_share import PieceShare
from .prefill_tile import Tile
from .shared_memory import PIECE_BYTES, Shared, copy_piece


struct Stages[shape: PrefillShape](TrivialRegisterPassable):
    """A block's shared memory, and what is loaded into it.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime threads = Self.shape.threads()
    """The threads that load."""

    var call: PrefillCall[Self.shape]
    """The tensors."""

    var tile: Tile[Self.shape]
    """The rows that are served."""

    var queries: Shared[UInt8]
    """The tile's queries, then the stages."""

    var places: Shared[Int64]
    """Where two blocks' chunks lie in the pool, in elements, `[2, chunks]`,
    and then their pages, likewise."""

    def __init__(
        out self,
        call: PrefillCall[Self.shape],
        tile: Tile[Self.shape],
        memory: Shared[UInt8],
        places: Shared[Int64],
    ):
        """Collects where everything lies.

        Args:
            call: The tensors.
            tile: The rows that are served.
            memory: `shared_bytes` of memory.
            places: Memory for the places and pages of two blocks.
        """
        self.call = call
        self.tile = tile
        self.queries = memory
        self.places = places

    @always_inline
    def keys(self, block: Int) -> Shared[UInt8]:
        """Returns where a block's keys are multiplied; its values follow.

        Args:
            block: The block.

        Returns:
            The first key.
        """
        var first = self.queries.unsafe_offset(Self.shape.query_bytes())
        comptime if Self.shape.is_quantized():
            return first
        return first.unsafe_offset(block % 2 * Self.shape.stage_bytes())

    @always_inline
    def _codes(self, block: Int) -> Shared[UInt8]:
        """Returns where a block's codes are loaded, keys, values, scales."""
        return self.queries.unsafe_offset(
            Self.shape.query_bytes()
            + 2 * Self.shape.plane_bytes()
            + block % 2 * Self.shape.stage_bytes()
        )

    @always_inline
    def scales(self, block: Int) -> Shared[Float32]:
        """Returns the scales of a block's keys; those of its values follow.

        Args:
            block: The block.

        Returns:
            The first scale.
        """
        return (
            self._codes(block)
            .unsafe_offset(2 * Self.shape.code_bytes())
            .unsafe_bitcast[Float32]()
        )

    @always_inline
    def page_of(self, block: Int) -> UInt32:
        """Looks up the page of one chunk of a block.

        Args:
            block: The block.

        Returns:
            The page of the thread's chunk; 0 where there is none.
        """
        var chunk = Int(thread_idx.x)
        if chunk >= Self.shape.chunks() or block >= self.tile.blocks():
            return 0
        var start = self.tile.seen(block) + Int32(chunk * CHUNK)
        var position = min(start, self.tile.newest)
        var table = self.call.keys.lookup_table
        var row = Int(self.tile.seq) * Int(table.layout.stride[0]().value())
        var page = table.ptr[
            unsafe_offset=row + Int(position) // Self.shape.page_size
        ]
        assert (
            not self.tile.sees_chunk(start)
            or Int(page) < self.call.keys.null_page()
        ), "page out of range"
        return page

    @always_inline
    def note_page(self, block: Int, page: UInt32):
        """Writes what `page_of` gave for all threads.

        Args:
            block: The block.
            page: The page of the thread's chunk.
        """
        comptime chunks = Self.shape.chunks()
        var chunk = Int(thread_idx.x)
        if chunk < chunks:
            var start = UInt32(self.tile.seen(block)) + UInt32(chunk * CHUNK)
            var slot = Int(start % UInt32(Self.shape.page_size))
            var stride = self.call.keys.blocks.layout.stride[0]().value()
            var at = block % 2 * chunks + chunk
            self.places[unsafe_offset=at] = Int64(page) * Int64(stride) + Int64(
                slot * Self.shape.token_stride()
            )
            self.places[unsafe_offset=2 * chunks + at] = Int64(page)

    @always_inline
    def load(self, block: Int):
        """Starts to load a block, if there is one; its pages are noted.

        Args:
            block: The block.
        """
        if block < self.tile.blocks():
            self._load_rows(block)
            comptime if Self.shape.is_quantized():
                self._load_scales(block)
        async_copy_commit_group()

    @always_inline
    def _load_rows(self, block: Int):
        """Copies the rows that are seen; the others become zeros."""
        comptime is_quantized = Self.shape.is_quantized()
        comptime plane = (
            Self.shape.code_bytes() if is_quantized else Self.shape.plane_bytes()
        )
        comptime token = Self.shape.token_stride()
        comptime Share = PieceShare[Self.shape]
        var own = Share()
        if not own.is_in_use():
            return
        var offset = (
            Int(self.tile.head) * Self.shape.head_dim()
            + Int(own.row % UInt32(CHUNK)) * token
            + Int(own.piece) * Share.width
        )
        var key = self.call.keys.blocks.ptr.unsafe_offset(offset)
        var value = self.call.values.blocks.ptr.unsafe_offset(offset)
        var keys = self._codes(block) if is_quantized else self.keys(block)
        var target = keys.unsafe_offset(own.target())
        var position = self.tile.seen(block) + Int32(own.row)
        var places = self.places.unsafe_offset(
            block % 2 * Self.shape.chunks() + Int(own.row) // CHUNK
        )
        comptime for turn in range(Share.turns):
            comptime rows = turn * Share.rows
            var source = Int(places[unsafe_offset=rows // CHUNK]) + (
                rows % CHUNK * token
            )
            var is_read = self.tile.sees(position + Int32(rows))
            var row = target.unsafe_offset(rows * Share.row_bytes)
            copy_piece(key.unsafe_offset(source), row, is_read=is_read)
            copy_piece(
                value.unsafe_offset(source),
                row.unsafe_offset(plane),
                is_read=is_read,
            )

    @always_inline
    def _load_scales(self, block: Int):
        """Copies a key's or a value's scale a thread."""
        comptime total = 2 * Self.shape.keys
        var start = self.tile.seen(block)
        for i in range(Int(thread_idx.x), total, Self.threads):
            var kind, row = divmod(i, Self.shape.keys)
            var page = Int(
                self.places[
                    unsafe_offset=(2 + block % 2) * Self.shape.chunks()
                    + row // CHUNK
                ]
            )
            var position = start + Int32(row)
            var slot = Int(position) % Self.shape.page_size
            var source = self.call.keys.scales.address(
                page=page, slot=slot, head=Int(self.tile.head)
            )
            if kind == 1:
                source = self.call.values.scales.address(
                    page=page, slot=slot, head=Int(self.tile.head)
                )
            async_copy[4, fill=Float32(0)](
                source.unsafe_address_space_cast[AddressSpace.GLOBAL](),
                self.scales(block).unsafe_offset(i),
                Int32(4) if self.tile.sees(position) else Int32(0),
            )

    @always_inline
    def turn_codes(self, block: Int):
        """Turns the codes that the thread itself has loaded into halves.

        Args:
            block: The block, which is loaded; nobody multiplies any more.
        """
        comptime Share = PieceShare[Self.shape]
        var own = Share()
        if not own.is_in_use():
            return
        comptime for plane in range(2):
            var codes = self._codes(block).unsafe_offset(
                plane * Self.shape.code_bytes() + own.target()
            )
            var target = self.keys(block).unsafe_offset(
                plane * Self.shape.plane_bytes()
            )
            comptime for turn in range(Share.turns):
                var four = (
                    codes.unsafe_offset(turn * Share.rows * Share.row_bytes)
                    .unsafe_bitcast[UInt32]()
                    .unsafe_load[width=4, alignment=PIECE_BYTES]()
                )
                comptime for side in range(2):
                    var numbers = halves[Self.shape.code](four[2 * side]).join(
                        halves[Self.shape.code](four[2 * side + 1])
                    )
                    var place = place_of[Self.shape, Self.shape.keys](
                        own.row, 2 * own.piece + UInt32(side)
                    )
                    target.unsafe_offset(
                        place + turn * Share.rows * 2 * Self.shape.panel()
                    ).unsafe_bitcast[Float16]().unsafe_store[
                        alignment=PIECE_BYTES
                    ](
                        0, numbers
                    )
