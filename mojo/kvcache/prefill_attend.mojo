"""The warpgroups of a prefill block that multiply what is brought to them.

While the tensor cores form the next block's scores and add the values of the
one before, the other units turn scores into weights.

See:
    [FlashAttention-3](https://arxiv.org/abs/2407.08608), for this overlap and
    for warpgroups that only load.
"""

from max.gpu import thread_idx
from max.gpu.memory import fence_async_view_proxy
from max.gpu.sync import syncwarp

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
from .prefill_shape import WARPGROUP, WARPGROUP_ROWS, PrefillShape, place_of
from .prefill_tile import Tile
from .prefill_write import write_rows
from .shared_memory import PIECE_BYTES, Shared


@always_inline
def attend_to_tiles[
    shape: PrefillShape
](call: PrefillCall[shape], ring: Ring[shape]):
    """Serves the tiles that are told, until there are no more.

    The next tile's first scores are formed while a tile's results are written.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        ring: Where everything comes.
    """
    var tiles = Turn(0)
    var turn = Turn(0)
    var tile = ring.take(tiles)
    if tile.is_empty():
        return
    ring.await_full[QUERIES](tiles)
    var scores = _score(ring, tiles, turn)
    wait_for_products[0]()
    scores = kept(scores)
    ring.free[KEYS](turn)
    while True:
        var sums = RowSums(call, tile)
        _ = sums.weigh(scores, call.rules, tile, 0)
        var weights = sums.rounded(scores)
        for block in range(1, tile.blocks()):
            var next = turn.next()
            scores = _score(ring, tiles, next)
            _add(sums, weights, ring, tile, block - 1, turn)
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
        _add(sums, weights, ring, tile, tile.blocks() - 1, turn)
        var next_tile = ring.take(tiles.next())
        if not next_tile.is_empty():
            ring.await_full[QUERIES](tiles.next())
        scores = _score(
            ring, tiles.next(), turn.next(), is_there=not next_tile.is_empty()
        )
        wait_for_products[1]()
        _finish(sums, call, ring, tile, tiles, turn)
        tile = next_tile
        tiles = tiles.next()
        turn = turn.next()
        wait_for_products[0]()
        scores = kept(scores)
        if tile.is_empty():
            return
        ring.free[KEYS](turn)


@always_inline
def _score[
    shape: PrefillShape
](
    ring: Ring[shape], tiles: Turn, turn: Turn, *, is_there: Bool = True
) -> RowSums[shape].Scores:
    """Starts to multiply a tile's queries with a block of keys.

    Behind the last tile nothing is there, and what lies in the places is
    multiplied in vain: a branch around it would make the compiler wait after
    every single product.
    """
    var first = Int(thread_idx.x) // WARPGROUP * WARPGROUP_ROWS
    var queries = ring.place[QUERIES](tiles).unsafe_offset(
        first * 2 * shape.panel()
    )
    if is_there:
        ring.await_full[KEYS](turn)
    return scores_of[shape](
        descriptor[shape](queries), descriptor[shape](ring.place[KEYS](turn))
    )


@always_inline
def _add[
    shape: PrefillShape
](
    mut sums: RowSums[shape],
    weights: RowSums[shape].Weights,
    ring: Ring[shape],
    tile: Tile[shape],
    block: Int,
    turn: Turn,
):
    """Starts to add a block's values, times their weights."""
    var values = ring.place[VALUES](turn)
    ring.await_full[VALUES](turn)
    if shape.rules.window or block + 1 == tile.blocks():
        _clear_unseen(tile, tile.seen(block), values)
    add_values[shape](sums.sums, weights, descriptor[shape](values))


@always_inline
def _finish[
    shape: PrefillShape
](
    mut sums: RowSums[shape],
    call: PrefillCall[shape],
    ring: Ring[shape],
    tile: Tile[shape],
    tiles: Turn,
    turn: Turn,
):
    """Writes a tile's results, whose last values are added.

    They go through the place of the queries, before tensor memory fills it again.
    """
    sums.keep()
    ring.free[VALUES](turn)
    write_rows(sums, call, tile, ring.place[QUERIES](tiles))
    fence_async_view_proxy()
    syncwarp()
    ring.free[QUERIES](tiles)


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
            values.unsafe_offset(place).unsafe_bitcast[UInt32]().unsafe_store[
                alignment=PIECE_BYTES
            ](0, SIMD[DType.uint32, 4](0))
    fence_async_view_proxy()
    sync_warpgroup()
