"""The warps of a prefill block that bring what the others multiply.

They run ahead, from tile to tile: while the last keys of one are attended to,
the queries and the first keys of the next one are on their way. One warp has
keys and values copied, by tensor memory; the others of its warpgroup find the
tiles and copy their queries.
"""

from layout import TileTensor, row_major
from max.gpu import block_idx, grid_dim, lane_id
from max.gpu.memory import async_copy_wait_all
from max.gpu.primitives import warp
from std.math import ceildiv

from .prefill_call import PrefillCall
from .prefill_queries import load_queries
from .prefill_ring import KEYS, QUERIES, VALUES, Ring, Turn
from .prefill_shape import CHUNK, PrefillShape
from .prefill_tile import Tile
from .tma import PageTMATile

comptime Boxes[shape: PrefillShape] = PageTMATile[
    shape.code, shape.box_rows(), shape.panel(), shape.swizzle(), True
]
"""Describes how tensor memory copies parts of a block: some tokens' panels.

Parameters:
    shape: What the kernel is compiled for.
"""


@always_inline
def feed_queries[
    shape: PrefillShape
](call: PrefillCall[shape], ring: Ring[shape], tiles: Int):
    """Finds the block's tiles, and brings their queries.

    Blocks take tiles by turns, forth and back: the first tiles have the most
    keys, and so each block has its share of them.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        ring: Where the queries go.
        tiles: The tiles of one key-value head.
    """
    var turn = Turn(0)
    var total = tiles * shape.kv_params.num_heads
    var blocks = Int(grid_dim.x)
    for round in range(ceildiv(total, blocks)):
        var way = Int(block_idx.x)
        if round % 2 == 1:
            way = blocks - 1 - way
        var tile = Tile[shape](
            call.batch,
            call.keys.cache_lengths.ptr,
            call.rules,
            min(round * blocks + way, total - 1),
            tiles,
        )
        if round * blocks + way < total and not tile.is_empty():
            ring.await_free[QUERIES](turn)
            load_queries(call, tile, ring.place[QUERIES](turn))
            ring.hand_over(turn, tile)
            turn.count += 1
    ring.await_free[QUERIES](turn)
    ring.hand_over(turn, Tile[shape]())
    async_copy_wait_all()


@always_inline
def feed_blocks[
    shape: PrefillShape
](
    call: PrefillCall[shape],
    keys: Boxes[shape],
    values: Boxes[shape],
    ring: Ring[shape],
):
    """Has the keys and values copied that the tiles see; a warp calls it.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        keys: Describes the pool's keys.
        values: Describes its values.
        ring: Where everything goes.
    """
    var tiles = Turn(0)
    var turn = Turn(0)
    while True:
        ring.await_full[QUERIES](tiles)
        var tile = ring.tiles[unsafe_offset=tiles.place()]
        if tile.is_empty():
            return
        var blocks = tile.blocks()
        var pages = _pages(call, tile, 0)
        var next_pages = _pages(call, tile, 1)
        _copy[KEYS](call, keys, ring, tile, 0, pages, turn)
        for block in range(blocks):
            var pages_after = _pages(call, tile, block + 2)
            var next = Turn(turn.count + 1)
            if block + 1 < blocks:
                _copy[KEYS](
                    call, keys, ring, tile, block + 1, next_pages, next
                )
            _copy[VALUES](call, values, ring, tile, block, pages, turn)
            turn = next
            pages = next_pages
            next_pages = pages_after
        ring.free[QUERIES](tiles)
        tiles.count += 1


@always_inline
def _pages[
    shape: PrefillShape
](call: PrefillCall[shape], tile: Tile[shape], block: Int) -> UInt32:
    """Looks up the page of one chunk of a block, the lane's one."""
    var chunk = Int32(lane_id()) % Int32(shape.chunks())
    var start = tile.seen(block) + chunk * Int32(CHUNK)
    var position = min(start, tile.newest)
    var table = call.keys.lookup_table
    var row = Int(tile.seq) * Int(table.layout.stride[0]().value())
    var page = table.ptr[unsafe_offset=row + Int(position) // shape.page_size]
    assert (
        not tile.sees_chunk(start) or Int(page) < call.keys.null_page()
    ), "page out of range"
    return page


@always_inline
def _copy[
    kind: Int, shape: PrefillShape
](
    call: PrefillCall[shape],
    boxes: Boxes[shape],
    ring: Ring[shape],
    tile: Tile[shape],
    block: Int,
    pages: UInt32,
    turn: Turn,
):
    """Has a block of keys, or of values, copied."""
    comptime rows = shape.box_rows()
    var stride = Int(call.keys.blocks.layout.stride[0]().value())
    var start = UInt32(tile.seen(block))
    var column = Int(tile.head) * shape.head_dim()
    var target = ring.place[kind](turn)
    var full = ring.full[kind](turn)
    ring.await_free[kind](turn)
    if lane_id() == 0:
        full[].expect_bytes(Int32(shape.plane_bytes()))
    comptime for first in range(0, shape.keys, rows):
        var page = Int(warp.shuffle_idx(pages, UInt32(first // CHUNK)))
        var slot = (start + UInt32(first)) % UInt32(shape.page_size)
        var row = page * (stride // shape.token_stride()) + Int(slot)
        if lane_id() == 0:
            comptime for panel in range(shape.panels()):
                comptime place = (panel * shape.keys + first) * 2 * shape.panel()
                boxes.async_copy(
                    TileTensor(
                        ptr=target.unsafe_offset(place).unsafe_bitcast[
                            Scalar[shape.code]
                        ](),
                        layout=row_major[rows, shape.panel()](),
                    ),
                    full[],
                    (column + panel * shape.panel(), row),
                )
