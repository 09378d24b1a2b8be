"""What a warpgroup of the prefill kernel sums up for its rows.

The softmax is computed on the fly, in powers of two. Weights are rounded once
to the type that the tensor cores multiply.

See:
    [FlashAttention-2](https://arxiv.org/abs/2307.08691), for rows that stay with
    their warps, and [Online softmax](https://arxiv.org/abs/1805.02867), for the
    running maximum.
"""

from max.gpu import lane_id, thread_idx
from max.gpu.primitives import warp
from std.math import exp2
from std.memory import bitcast
from std.utils.numerics import neg_inf

from .attention_rules import (
    LOG2_E,
    NOTHING,
    AttentionRules,
    RulesInUse,
)
from .prefill_call import PrefillCall
from .prefill_products import kept
from .prefill_shape import PrefillShape
from .prefill_tile import Tile


struct RowSums[shape: PrefillShape]:
    """A lane's part of 64 rows of a tile: of two of them.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime keys = Self.shape.keys
    """The keys that are attended to at once."""

    comptime Scores = SIMD[DType.float32, Self.keys // 2]
    """A lane's scores: of eight keys two neighbours, for each of its rows."""

    comptime Weights = SIMD[DType.uint32, Self.keys // 4]
    """A lane's weights, rounded, in pairs."""

    var last: Array[Int32, 2]
    """The last position that each row sees, its own."""

    var begin: Array[Int32, 2]
    """The first position of each row's window."""

    var largest: Array[Float32, 2]
    """The largest score so far of each row, in units of `unit_of_scores`."""

    var weight: Array[Float32, 2]
    """The lane's part of the sum of weights so far."""

    var sums: Array[
        SIMD[DType.float32, Self.shape.columns() // 2],
        Self.shape.parts(),
    ]
    """The weighted sums of values so far, in units of `unit`."""

    var unit: Float32
    """The largest scale of a value so far; 1 without quantisation."""

    def __init__(
        out self,
        call: PrefillCall[Self.shape],
        tile: Tile[Self.shape],
    ):
        """Has seen no keys yet.

        Args:
            call: The tensors.
            tile: The rows.
        """
        self.last = Array[Int32, 2](fill=0)
        self.begin = Array[Int32, 2](fill=0)
        self.largest = Array[Float32, 2](fill=NOTHING)
        self.weight = Array[Float32, 2](fill=0)
        self.sums = type_of(self.sums)(fill=0)
        self.unit = 0 if Self.shape.is_quantized() else 1
        comptime for side in range(2):
            self.last[side] = tile.position(first_row() + Int32(8 * side))
            self.begin[side] = Int32(
                call.rules.window_start(Int(self.last[side]))
            )

    @always_inline
    def weigh(
        mut self,
        mut scores: Self.Scores,
        rules: AttentionRules[Self.shape.rules],
        tile: Tile[Self.shape],
        block: Int,
    ) -> Array[Float32, 2]:
        """Turns products of queries and keys into weights.

        Args:
            scores: The products.
            rules: How scores are formed.
            tile: The rows.
            block: The block of keys.

        Returns:
            What the sums of each row are to be multiplied by.
        """
        comptime if Self.shape.rules.softcap:
            # One by one: all at once they would not fit the registers.
            comptime for i in range(Self.keys // 2):
                scores[i] = rules.capped(scores[i] * rules.scale)
        var start = tile.seen(block)
        if not tile.sees_block(start):
            self._hide(tile, scores, start)
        return self._soften(scores, factor_of(rules))

    @always_inline
    def rounded(self, weights: Self.Scores) -> Self.Weights:
        """Rounds weights to the type that is multiplied.

        Args:
            weights: The weights.

        Returns:
            The halves, in pairs.
        """
        return bitcast[DType.uint32, Self.keys // 4](
            weights.cast[Self.shape.half()]()
        )

    @always_inline
    def keep(mut self):
        """Lets nothing use the sums before what comes before this call."""
        comptime for part in range(Self.shape.parts()):
            self.sums[part] = kept(self.sums[part])

    @always_inline
    def fade(mut self, by: Array[Float32, 2]):
        """Rescales the sums.

        Args:
            by: What each row's are multiplied by.
        """
        comptime for part in range(Self.shape.parts()):
            comptime for side in range(2):
                comptime for i in range(Self.shape.columns() // 8):
                    self.sums[part][4 * i + 2 * side] *= by[side]
                    self.sums[part][4 * i + 2 * side + 1] *= by[side]

    @always_inline
    def _hide(
        self, tile: Tile[Self.shape], mut scores: Self.Scores, start: Int32
    ):
        """Makes scores of keys that their rows do not see minus infinity."""
        var first = start + Int32(2 * (Int(lane_id()) % 4))
        comptime for side in range(2):
            comptime for i in range(Self.keys // 8):
                comptime for next in range(2):
                    var position = first + Int32(8 * i + next)
                    var is_seen = position <= self.last[side]
                    comptime if Self.shape.rules.window:
                        is_seen = is_seen and (
                            position >= self.begin[side]
                            or position < tile.sink_tokens
                        )
                    if not is_seen:
                        scores[4 * i + 2 * side + next] = neg_inf[
                            DType.float32
                        ]()

    @always_inline
    def _soften(
        mut self, mut scores: Self.Scores, factor: Float32
    ) -> Array[Float32, 2]:
        """Turns scores into weights, and says what fades by how much."""
        var fade = Array[Float32, 2](fill=1)
        comptime for side in range(2):
            var pair = SIMD[DType.float32, 2](self.largest[side])
            comptime for i in range(Self.keys // 8):
                pair = max(pair, scores.slice[2, offset=4 * i + 2 * side]())
            var top = pair.reduce_max()
            top = max(top, warp.shuffle_xor(top, 1))
            top = max(top, warp.shuffle_xor(top, 2))
            fade[side] = exp2((self.largest[side] - top) * factor)
            self.largest[side] = top
            var shift = -top * factor
            var total = SIMD[DType.float32, 2](0)
            comptime for i in range(Self.keys // 8):
                comptime for next in range(2):
                    comptime at = 4 * i + 2 * side + next
                    scores[at] = exp2(scores[at].fma(factor, shift))
                    total[next] += scores[at]
            self.weight[side] = (
                self.weight[side] * fade[side] + total.reduce_add()
            )
        return fade^


@always_inline
def first_row() -> Int32:
    """Returns the thread's first row of the tile; it has one eight further too.

    Returns:
        The row.
    """
    var thread = Int32(thread_idx.x)
    return thread // 32 * 16 + thread % 32 // 4


@always_inline
def factor_of[in_use: RulesInUse, //](rules: AttentionRules[in_use]) -> Float32:
    """Returns what makes powers of two of scores, which are bounded already or
    not scaled yet.

    Parameters:
        in_use: The rules that the kernel is compiled with.

    Args:
        rules: The rules.

    Returns:
        The factor, a positive one: it keeps the order of the scores.
    """
    comptime if in_use.softcap:
        return LOG2_E
    return rules.scale * LOG2_E
