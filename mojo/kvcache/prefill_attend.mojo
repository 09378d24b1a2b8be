"""The warpgroups of a prefill block that multiply what is brought to them.

While the tensor cores form the next block's scores and add the values of the
one before, the other units turn scores into weights.

See:
    [FlashAttention-3](https://arxiv.org/abs/2407.08608), for this overlap and
    for warpgroups that only load.
"""

from max.gpu import thread_idx
from max.gpu.memory import fence_async_view_proxy
from max.gpu.sync import named_barrier, named_barrier_arrive
comptime TAKES_TURNS = False

from .prefill_call import PrefillCall
from .prefill_products import (
    add_values,
    descriptor,
    kept,
    scores_of,
    sync_warpgroup,
    wait_for_products,
)
from .prefill_ring import KEYS, QUERIES, VALUES, Ring, Turn
from .prefill_rows import RowSums
from .prefill_shape import WARPGROUP, PrefillShape, place_of
from .prefill_tile import Tile
from .shared_memory import PIECE_BYTES, Shared


@always_inline
def attend_to_tiles[
    shape: PrefillShape
](call: PrefillCall[shape], ring: Ring[shape]):
    """Serves the tiles that are handed over, until there are no more.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        ring: Where everything comes.
    """
    comptime if TAKES_TURNS:
        if Int(thread_idx.x) >= 128:
            named_barrier_arrive[256](3)
    var tiles = Turn(0)
    var blocks = Turn(0)
    while True:
        ring.await_full[QUERIES](tiles)
        var tile = ring.tiles[unsafe_offset=tiles.place()]
        if tile.is_empty():
            return
        var sums = RowSums(call, tile, ring.place[QUERIES](tiles))
        _attend(sums, call, ring, tile, blocks)
        sums.write_through(call, tile, ring.place[QUERIES](tiles))
        ring.free[QUERIES](tiles)
        tiles.count += 1
        blocks.count += UInt32(tile.blocks())


@always_inline
def _attend[
    shape: PrefillShape
](
    mut sums: RowSums[shape],
    call: PrefillCall[shape],
    ring: Ring[shape],
    tile: Tile[shape],
    first: Turn,
):
    """Adds all blocks that a tile sees."""
    var turn = first
    ring.await_full[KEYS](turn)
    var scores = scores_of[shape](
        sums.queries, descriptor[shape](ring.place[KEYS](turn))
    )
    wait_for_products[0]()
    scores = kept(scores)
    ring.free[KEYS](turn)
    _ = sums.weigh(scores, call.rules, tile, 0)
    var weights = sums.rounded(scores)
    for block in range(1, tile.blocks()):
        var next = Turn(turn.count + 1)
        ring.await_full[KEYS](next)
        comptime if TAKES_TURNS:
            named_barrier[256](Int32(3 + Int(thread_idx.x) // 128))
        scores = scores_of[shape](
            sums.queries, descriptor[shape](ring.place[KEYS](next))
        )
        ring.await_full[VALUES](turn)
        comptime if shape.rules.window:
            _clear_unseen(tile, tile.seen(block - 1), ring.place[VALUES](turn))
        add_values[shape](
            sums.sums, weights, descriptor[shape](ring.place[VALUES](turn))
        )
        comptime if TAKES_TURNS:
            named_barrier_arrive[256](Int32(4 - Int(thread_idx.x) // 128))
        wait_for_products[1]()
        scores = kept(scores)
        ring.free[KEYS](next)
        var fade = sums.weigh(scores, call.rules, tile, block)
        wait_for_products[0]()
        sums.keep()
        ring.free[VALUES](turn)
        sums.fade(fade)
        weights = sums.rounded(scores)
        turn = next
    ring.await_full[VALUES](turn)
    _clear_unseen(
        tile, tile.seen(tile.blocks() - 1), ring.place[VALUES](turn)
    )
    add_values[shape](
        sums.sums, weights, descriptor[shape](ring.place[VALUES](turn))
    )
    wait_for_products[0]()
    sums.keep()
    ring.free[VALUES](turn)


@always_inline
def _clear_unseen[
    shape: PrefillShape
](tile: Tile[shape], start: Int32, values: Shared[UInt8]):
    """Turns values that no row sees into zeros; a warpgroup calls it.

    They may be anything, and what is multiplied by a weight of zero counts where
    it is not finite. Each warpgroup writes the same zeros.
    """
    if tile.is_whole(start):
        return
    comptime width = PIECE_BYTES // 2
    comptime pieces = shape.head_dim() // width
    comptime total = shape.keys * pieces
    for i in range(Int(thread_idx.x) % WARPGROUP, total, WARPGROUP):
        var row, piece = divmod(i, pieces)
        if not tile.sees(start + Int32(row)):
            var place = place_of[shape, shape.keys](UInt32(row), UInt32(piece))
            values.unsafe_offset(place).unsafe_bitcast[
                UInt32
            ]().unsafe_store[alignment=PIECE_BYTES](
                0, SIMD[DType.uint32, 4](0)
            )
    fence_async_view_proxy()
    sync_warpgroup()
