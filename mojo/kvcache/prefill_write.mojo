"""Writes the results of a prefill kernel's rows."""

from max.gpu import lane_id, thread_idx
from max.gpu.primitives import warp
from max.gpu.sync import syncwarp
from std.math import exp2

from .attention_rules import LOG2_E
from .prefill_call import PrefillCall
from .prefill_products import sync_warpgroup
from .prefill_rows import RowSums, factor_of, first_row
from .prefill_shape import LANES, WARPGROUP_ROWS, PrefillShape, place_of
from .prefill_tile import Tile
from .shared_memory import PIECE_BYTES, Shared

comptime WARP_ROWS = WARPGROUP_ROWS // 4
"""The rows of a warp."""


@always_inline
def write_rows[
    shape: PrefillShape
](
    sums: RowSums[shape],
    call: PrefillCall[shape],
    tile: Tile[shape],
    place: Shared[UInt8],
):
    """Writes a warpgroup's results: to shared memory first, then whole rows.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        sums: What the results are made of.
        call: The tensors.
        tile: The rows.
        place: The tile's queries, which the warpgroup needs no more.
    """
    sync_warpgroup()
    _gather_rows(sums, call, tile, place)
    syncwarp()
    comptime width = PIECE_BYTES // 2
    comptime pieces = shape.head_dim() // width
    var first = Int(thread_idx.x) // LANES * WARP_ROWS
    for i in range(Int(lane_id()), WARP_ROWS * pieces, LANES):
        var row, piece = divmod(i, pieces)
        row += first
        if tile.has(Int32(row)):
            var source = place.unsafe_offset(
                place_of[shape, shape.rows()](UInt32(row), UInt32(piece))
            )
            call.output.unsafe_store[alignment=PIECE_BYTES](
                tile.element(Int32(row)) + piece * width,
                source.unsafe_bitcast[Scalar[shape.dtype]]().unsafe_load[
                    width=width, alignment=PIECE_BYTES
                ](),
            )


@always_inline
def _gather_rows[
    shape: PrefillShape
](
    sums: RowSums[shape],
    call: PrefillCall[shape],
    tile: Tile[shape],
    place: Shared[UInt8],
):
    """Puts the results into shared memory, each lane its part."""
    comptime per_part = shape.columns() // 8
    comptime for side in range(2):
        var row = first_row() + Int32(8 * side)
        var factor = _factor[side](sums, call, tile, row)
        comptime for piece in range(shape.head_dim() // 8):
            comptime part = piece // per_part
            comptime first = piece % per_part * 4 + 2 * side
            var pair = sums.sums[part].slice[2, offset=first]() * factor
            place.unsafe_offset(
                place_of[shape, shape.rows()](UInt32(row), UInt32(piece))
                + 4 * (Int(lane_id()) % 4)
            ).unsafe_bitcast[Scalar[shape.dtype]]().unsafe_store[alignment=4](
                0, pair.cast[shape.dtype]()
            )


@always_inline
def _factor[
    side: Int, shape: PrefillShape
](
    sums: RowSums[shape],
    call: PrefillCall[shape],
    tile: Tile[shape],
    row: Int32,
) -> Float32:
    """Returns what makes a row's result of its sums."""
    var total = sums.weight[side]
    total += warp.shuffle_xor(total, 1)
    total += warp.shuffle_xor(total, 2)
    comptime if shape.rules.sinks:
        if tile.has(row):
            var sink = call.rules.sinks[unsafe_offset=tile.query_head(row)]
            var top = sums.largest[side] * factor_of(call.rules)
            total += exp2(sink * LOG2_E - top)
    return sums.unit / total
