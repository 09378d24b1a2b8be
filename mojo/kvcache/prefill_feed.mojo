"""The warps of a prefill block that bring what the others multiply.

They run ahead, from tile to tile: while the last keys of one are attended to,
the queries and the first keys of the next one are on their way. One warp has
keys and values copied, by tensor memory; the others of its warpgroup find the
tiles and copy their queries.
"""

from layout import TileTensor, row_major
from max.gpu import lane_id, thread_idx
from max.gpu.memory import async_copy_wait_all
from max.gpu.primitives import warp

from .prefill_boxes import Boxes, QueryBoxes
from .prefill_call import PrefillCall
from .prefill_order import TileOrder
from .prefill_queries import load_queries
from .prefill_ring import KEYS, QUERIES, VALUES, Ring, Turn
from .prefill_shape import CHUNK, PrefillShape
from .prefill_tile import Tile


@always_inline
def feed_queries[
    shape: PrefillShape
](
    call: PrefillCall[shape],
    boxes: QueryBoxes[shape],
    ring: Ring[shape],
    order: TileOrder[shape],
):
    """Brings the queries of the block's tiles, and tells the tiles.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        boxes: Describes the queries.
        ring: Where they go.
        order: The block's tiles.
    """
    var turn = Turn(0)
    for round in range(order.rounds()):
        var tile = order.tile(call, round)
        if not tile.is_empty():
            ring.await_free[QUERIES](turn)
            comptime if not shape.has_query_boxes():
                load_queries(call, tile, ring.place[QUERIES](turn))
            ring.hand_over(turn, tile)
            comptime if shape.has_query_boxes():
                _copy_queries(boxes, ring, tile, turn)
            turn = turn.next()
    ring.await_free[QUERIES](turn)
    ring.hand_over(turn, Tile[shape]())
    async_copy_wait_all()


@always_inline
def feed_blocks[
    kind: Int, shape: PrefillShape
](
    call: PrefillCall[shape],
    boxes: Boxes[shape],
    ring: Ring[shape],
    order: TileOrder[shape],
):
    """Has the keys, or the values, of the block's tiles copied; by one warp.

    Parameters:
        kind: Which of them.
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        boxes: Describes the pool's keys, or its values.
        ring: Where everything goes.
        order: The block's tiles.
    """
    var turn = Turn(0)
    for round in range(order.rounds()):
        var tile = order.tile(call, round)
        if not tile.is_empty():
            var pages = _pages(call, tile, 0)
            for block in range(tile.blocks()):
                var next_pages = _pages(call, tile, block + 1)
                ring.await_free[kind](turn)
                _copy[kind](call, boxes, ring, tile, block, pages, turn)
                pages = next_pages
                turn = turn.next()


@always_inline
def _copy_queries[
    shape: PrefillShape
](boxes: QueryBoxes[shape], ring: Ring[shape], tile: Tile[shape], turn: Turn,):
    """Has a tile's queries copied; rows beyond its last may be anything."""
    if Int(thread_idx.x) != shape.threads() - 1:
        return
    var full = ring.full[QUERIES](turn)
    var token = Int(tile.start) + Int(tile.first) // shape.group()
    comptime for panel in range(shape.panels()):
        boxes.async_copy_3d(
            TileTensor(
                ptr=ring.place[QUERIES](turn)
                .unsafe_offset(panel * shape.rows() * 2 * shape.panel())
                .unsafe_bitcast[Scalar[shape.dtype]](),
                layout=row_major[
                    shape.box_tokens(), shape.group(), shape.panel()
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
