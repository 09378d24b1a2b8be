"""Attends to a block of keys at once, its scales included.

For the kernel whose warps all load: while a block is attended to, the next one
is on its way.
"""

from max.gpu import lane_id, thread_idx
from max.gpu.primitives import warp

from .prefill_products import (
    add_values,
    descriptor,
    kept,
    scores_of,
    wait_for_products,
)
from .prefill_rows import RowSums
from .prefill_shape import WARPGROUP, WARPGROUP_ROWS, PrefillShape
from .prefill_stage import Stages
from .shared_memory import Shared


@always_inline
def attend_to_block[
    shape: PrefillShape
](mut sums: RowSums[shape], stages: Stages[shape], block: Int):
    """Adds a block to a warpgroup's rows.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        sums: What it is added to.
        stages: Where it lies.
        block: The block.
    """
    var keys = stages.keys(block)
    var first = Int(thread_idx.x) // WARPGROUP * WARPGROUP_ROWS
    var queries = stages.queries.unsafe_offset(first * 2 * shape.panel())
    var scores = scores_of[shape](
        descriptor[shape](queries), descriptor[shape](keys)
    )
    wait_for_products[0]()
    scores = kept(scores)
    var unit_fade = Float32(1)
    comptime if shape.is_quantized():
        _scale[shape](scores, _scales(stages, block), 1)
        unit_fade = _unit_fade(sums, _scales(stages, block, is_value=True))
    var fade = sums.weigh(scores, stages.call.rules, stages.tile, block)
    comptime for side in range(2):
        fade[side] *= unit_fade
    sums.fade(fade)
    comptime if shape.is_quantized():
        var share = 1 / sums.unit if sums.unit > 0 else Float32(0)
        _scale[shape](scores, _scales(stages, block, is_value=True), share)
    var values = keys.unsafe_offset(shape.plane_bytes())
    add_values[shape](
        sums.sums, sums.rounded(scores), descriptor[shape](values)
    )
    wait_for_products[0]()
    sums.keep()


@always_inline
def _scales[
    shape: PrefillShape
](stages: Stages[shape], block: Int, *, is_value: Bool = False) -> Shared[
    Float32
]:
    """Returns the scale of a lane's first key or value; the next one follows,
    and of every eight keys two are the lane's."""
    return stages.scales(block).unsafe_offset(
        (shape.keys if is_value else 0) + 2 * (Int(lane_id()) % 4)
    )


@always_inline
def _scale[
    shape: PrefillShape
](mut numbers: RowSums[shape].Scores, scales: Shared[Float32], share: Float32):
    """Multiplies products, or weights, with the scales of their keys."""
    comptime for i in range(shape.keys // 8):
        var pair = scales.unsafe_load[width=2, alignment=8](8 * i) * share
        comptime for side in range(2):
            numbers[4 * i + 2 * side] *= pair[0]
            numbers[4 * i + 2 * side + 1] *= pair[1]


@always_inline
def _unit_fade[
    shape: PrefillShape
](mut sums: RowSums[shape], scales: Shared[Float32]) -> Float32:
    """Lets the unit grow to the largest scale of a block's values.

    Weights times scales must not leave the range of float16.
    """
    var top = Float32(0)
    comptime for i in range(shape.keys // 8):
        var pair = scales.unsafe_load[width=2, alignment=8](8 * i)
        top = max(top, pair.reduce_max())
    top = max(top, warp.shuffle_xor(top, 1))
    top = max(top, warp.shuffle_xor(top, 2))
    if top <= sums.unit:
        return 1
    var fade = sums.unit / top
    sums.unit = top
    return fade
