"""The warps of a prefill block that bring what the others multiply.

They run ahead, from tile to tile: while the last keys of one are attended to,
the queries and the first keys of the next one are on their way. One warp draws
tiles and has their keys copied by tensor memory, one their values, and the others
bring their queries.
"""

from layout import TileTensor, row_major
from max.gpu import lane_id, thread_idx
from max.gpu.memory import async_copy_wait_all
from max.gpu.primitives import warp

from .prefill_boxes import Boxes, QueryBoxes
from .prefill_call import PrefillCall
from .prefill_queries import load_queries
from .prefill_ring import KEYS, QUERIES, VALUES, Ring, Turn
from .prefill_shape import CHUNK, LANES, PrefillShape
from .prefill_tickets import Tickets
from .prefill_tile import Tile


@always_inline
def feed_keys[
    shape: PrefillShape
](
    call: PrefillCall[shape],
    boxes: Boxes[shape],
    ring: Ring[shape],
    tickets: Tickets[shape],
):
    """Draws tiles, tells them, and has their keys copied; a warp calls it.

    A tile is drawn when the last keys of the one before it are on their way.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        boxes: Describes the pool's keys.
        ring: Where everything goes.
        tickets: What tiles are drawn from.
    """
    var tiles = Turn(0)
    var turn = Turn(0)
    while True:
        var ticket = tickets.draw()
        if ticket >= tickets.total():
            break
        var tile = tickets.tile(call, ticket)
        if not tile.is_empty():
            ring.tell(tiles, tile)
            tiles = tiles.next()
            turn = _feed[KEYS](call, boxes, ring, tile, turn)
    ring.tell(tiles, Tile[shape]())


@always_inline
def feed_values[
    shape: PrefillShape
](call: PrefillCall[shape], boxes: Boxes[shape], ring: Ring[shape]):
    """Has the values of the block's tiles copied; a warp calls it.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        boxes: Describes the pool's values.
        ring: Where they go.
    """
    var tiles = Turn(0)
    var turn = Turn(0)
    while True:
        var tile = ring.take(tiles)
        if tile.is_empty():
            return
        tiles = tiles.next()
        turn = _feed[VALUES](call, boxes, ring, tile, turn)


@always_inline
def feed_queries[
    shape: PrefillShape
](call: PrefillCall[shape], boxes: QueryBoxes[shape], ring: Ring[shape]):
    """Brings the queries of the block's tiles; `query_loaders` threads call it.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        boxes: Describes the queries.
        ring: Where they go.
    """
    var turn = Turn(0)
    while True:
        var tile = ring.take(turn)
        if tile.is_empty():
            break
        comptime if shape.has_query_boxes():
            # The other warp has nothing to copy, so it must not wait.
            if Int(thread_idx.x) >= shape.threads() - LANES:
                ring.await_free[QUERIES](turn)
                _copy_queries(boxes, ring, tile, turn)
        else:
            ring.await_free[QUERIES](turn)
            load_queries(call, tile, ring.place[QUERIES](turn))
            ring.fill_when_copied[QUERIES](turn)
        turn = turn.next()
    async_copy_wait_all()


@always_inline
def _feed[
    kind: Int, shape: PrefillShape
](
    call: PrefillCall[shape],
    boxes: Boxes[shape],
    ring: Ring[shape],
    tile: Tile[shape],
    first: Turn,
) -> Turn:
    """Has all keys, or values, that a tile sees copied."""
    var turn = first
    var pages = _pages(call, tile, 0)
    for block in range(tile.blocks()):
        var next_pages = _pages(call, tile, block + 1)
        ring.await_free[kind](turn)
        _copy[kind](call, boxes, ring, tile, block, pages, turn)
        pages = next_pages
        turn = turn.next()
    return turn


@always_inline
def _copy_queries[
    shape: PrefillShape
](boxes: QueryBoxes[shape], ring: Ring[shape], tile: Tile[shape], turn: Turn):
    """Has a tile's queries copied; rows beyond its last may be anything."""
    if Int(thread_idx.x) != shape.threads() - 1:
        return
    var full = ring.full[QUERIES](turn)
    full[].expect_bytes(Int32(shape.query_bytes()))
    var token = Int(tile.start) + Int(tile.first) // shape.group()
    comptime for panel in range(shape.panels()):
        boxes.async_copy_3d(
            TileTensor(
                ptr=ring.place[QUERIES](turn)
                .unsafe_offset(panel * shape.rows() * 2 * shape.panel())
                .unsafe_bitcast[Scalar[shape.dtype]](),
                layout=row_major[
                    shape.box_tokens(), shape.box_heads(), shape.panel()
                ](),
            ),
            full[],
            (panel * shape.panel(), Int(tile.head) * shape.group(), token),
        )


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
    if lane_id() == 0:
        full[].expect_bytes(Int32(shape.plane_bytes()))
    comptime for first in range(0, shape.keys, rows):
        var page = Int(warp.shuffle_idx(pages, UInt32(first // CHUNK)))
        var slot = (start + UInt32(first)) % UInt32(shape.page_size)
        var row = page * (stride // shape.token_stride()) + Int(slot)
        if lane_id() == 0:
            comptime for panel in range(shape.panels()):
                comptime place = (
                    panel * shape.keys + first
                ) * 2 * shape.panel()
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
