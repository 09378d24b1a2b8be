"""The warpgroup of a prefill block that brings what the others multiply.

It runs ahead, from tile to tile: while the last keys of one are attended to,
the queries and the first keys of the next one are on their way.
"""

from layout import TileTensor, row_major
from max.gpu import lane_id
from max.gpu.memory import async_copy_wait_all
from max.gpu.primitives import warp
from max.gpu.sync import named_barrier

from .prefill_call import PrefillCall
from .prefill_queries import load_queries
from .prefill_ring import KEYS, QUERIES, VALUES, Ring, Turn
from .prefill_shape import CHUNK, LANES, WARPGROUP, PrefillShape, loader
from .prefill_share import PieceShare
from .prefill_tile import Tile
from .shared_memory import copy_piece
from .tma import PageTMATile


comptime Boxes[shape: PrefillShape] = PageTMATile[
    shape.code,
    shape.box_rows(),
    shape.panel(),
    shape.swizzle(),
    True,
]
"""Describes how boxes of the pool are copied.

Parameters:
    shape: What the kernel is compiled for.
"""


struct Feed[shape: PrefillShape]:
    """What one thread brings, in turns.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime Share = PieceShare[Self.shape]
    """Which pieces of a block it brings."""

    var call: PrefillCall[Self.shape]
    """The tensors."""

    var ring: Ring[Self.shape]
    """Where everything goes."""

    var tiles: Turn
    """The tiles so far."""

    var blocks: Turn
    """The blocks of values so far."""

    def __init__(
        out self, call: PrefillCall[Self.shape], ring: Ring[Self.shape]
    ):
        """Has brought nothing yet.

        Args:
            call: The tensors.
            ring: Where everything goes.
        """
        self.call = call
        self.ring = ring
        self.tiles = Turn(0)
        self.blocks = Turn(0)

    @always_inline
    def bring(
        mut self,
        tile: Tile[Self.shape],
        keys: Boxes[Self.shape],
        values: Boxes[Self.shape],
    ):
        """Brings a tile's queries, and all the keys and values that they see.

        Args:
            tile: The tile.
            keys: Describes the pool's keys.
            values: Describes its values.
        """
        self.ring.await_free[QUERIES](self.tiles)
        load_queries(self.call, tile, self.ring.place[QUERIES](self.tiles))
        self.ring.fill[QUERIES](self.tiles)
        self._hand_over(tile)
        var blocks = tile.blocks()
        var pages = self._pages(tile, 0)
        var next = self._pages(tile, 1)
        self._bring_keys(tile, 0, pages, keys, self.blocks)
        for block in range(blocks):
            var after = self._pages(tile, block + 2)
            var turn = Turn(self.blocks.count + 1)
            if block + 1 < blocks:
                self._bring_keys(tile, block + 1, next, keys, turn)
            self._bring_values(tile, block, pages, values)
            self.blocks = turn
            pages = next
            next = after

    def end(mut self):
        """Tells the others that there is nothing more."""
        self.ring.await_free[QUERIES](self.tiles)
        self.ring.fill[QUERIES](self.tiles)
        self._hand_over(Tile[Self.shape]())
        async_copy_wait_all()

    @always_inline
    def _hand_over(mut self, tile: Tile[Self.shape]):
        if loader[Self.shape]() == 0:
            self.ring.hand_over(self.tiles, tile)
        self.tiles.count += 1

    @always_inline
    def _pages(self, tile: Tile[Self.shape], block: Int) -> UInt32:
        """Looks up the page of one chunk of a block, the lane's one."""
        var chunk = Int32(lane_id()) % Int32(Self.shape.chunks())
        var start = tile.seen(block) + chunk * Int32(CHUNK)
        var position = min(start, tile.newest)
        var table = self.call.keys.lookup_table
        var row = Int(tile.seq) * Int(table.layout.stride[0]().value())
        var page = table.ptr[
            unsafe_offset=row + Int(position) // Self.shape.page_size
        ]
        assert (
            not tile.sees_chunk(start)
            or Int(page) < self.call.keys.null_page()
        ), "page out of range"
        return page

    @always_inline
    def _bring_keys(
        self,
        tile: Tile[Self.shape],
        block: Int,
        pages: UInt32,
        boxes: Boxes[Self.shape],
        turn: Turn,
    ):
        """Has a block of keys copied; what no row sees may be anything."""
        if loader[Self.shape]() < LANES:
            self.ring.await_free[KEYS](turn)
            self._copy_boxes[KEYS](tile, block, pages, boxes, turn)

    @always_inline
    def _bring_values(
        self,
        tile: Tile[Self.shape],
        block: Int,
        pages: UInt32,
        boxes: Boxes[Self.shape],
    ):
        """Has a block of values copied; what no row sees becomes zeros."""
        var is_whole = tile.is_whole(tile.seen(block))
        if is_whole and loader[Self.shape]() >= LANES:
            return
        self.ring.await_free[VALUES](self.blocks)
        if is_whole:
            self._copy_boxes[VALUES](tile, block, pages, boxes, self.blocks)
        else:
            self._copy_rows(tile, block, pages)

    @always_inline
    def _copy_boxes[
        kind: Int
    ](
        self,
        tile: Tile[Self.shape],
        block: Int,
        pages: UInt32,
        boxes: Boxes[Self.shape],
        turn: Turn,
    ):
        """Has tensor memory copy a block; a warp calls it."""
        comptime rows = Self.shape.box_rows()
        comptime row_bytes = 2 * Self.shape.panel()
        comptime stride = Self.shape.token_stride()
        var target = self.ring.place[kind](turn)
        var signal = self.ring.full(kind, turn.place())
        var start = UInt32(tile.seen(block))
        var per_page = Int(
            self.call.keys.blocks.layout.stride[0]().value()
        ) // stride
        var column = Int(tile.head) * Self.shape.head_dim()
        var is_first = lane_id() == 0
        if is_first:
            signal[].expect_bytes(Int32(Self.shape.plane_bytes()))
        comptime for box in range(Self.shape.keys // rows):
            var page = warp.shuffle_idx(pages, UInt32(box * rows // CHUNK))
            if is_first:
                var slot = (start + UInt32(box * rows)) % UInt32(
                    Self.shape.page_size
                )
                var row = Int(page) * per_page + Int(slot)
                comptime for panel in range(Self.shape.panels()):
                    boxes.async_copy(
                        TileTensor(
                            ptr=target.unsafe_offset(
                                (panel * Self.shape.keys + box * rows)
                                * row_bytes
                            ).unsafe_bitcast[Scalar[Self.shape.code]](),
                            layout=row_major[rows, Self.shape.panel()](),
                        ),
                        signal[],
                        (column + panel * Self.shape.panel(), row),
                    )

    @always_inline
    def _copy_rows(
        self, tile: Tile[Self.shape], block: Int, pages: UInt32
    ):
        """Copies the values that are seen; all threads call it."""
        comptime token = Self.shape.token_stride()
        var own = Self.Share()
        var cache = self.call.values
        var stride = Int(cache.blocks.layout.stride[0]().value())
        var source = cache.blocks.ptr.unsafe_offset(
            Int(tile.head) * Self.shape.head_dim()
            + Int(own.row % UInt32(CHUNK)) * token
            + Int(own.piece) * Self.Share.width
        )
        var start = tile.seen(block)
        var chunk = own.row // UInt32(CHUNK)
        var target = self.ring.place[VALUES](self.blocks).unsafe_offset(
            own.target()
        )
        comptime for i in range(Self.Share.turns):
            comptime rows = i * Self.Share.rows
            var at = chunk + UInt32(rows // CHUNK)
            var page = warp.shuffle_idx(pages, at)
            var slot = (UInt32(start) + at * UInt32(CHUNK)) % UInt32(
                Self.shape.page_size
            )
            var place = Int(page) * stride + (Int(slot) + rows % CHUNK) * token
            if own.is_in_use():
                copy_piece(
                    source.unsafe_offset(place),
                    target.unsafe_offset(rows * Self.Share.row_bytes),
                    is_read=tile.sees(start + Int32(own.row) + Int32(rows)),
                )
        self.ring.fill_besides(self.blocks)
        named_barrier[Int32(WARPGROUP)](1)
        if loader[Self.shape]() == 0:
            _ = self.ring.full(VALUES, self.blocks.place())[].arrive()
