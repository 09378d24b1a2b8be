"""The softmax of rows of scores that come a span at a time.

See:
    [Online softmax](https://arxiv.org/abs/1805.02867), for the running
    maximum.
"""

from std.math import align_down, align_up, exp
from std.sys import simd_width_of
from std.utils.numerics import neg_inf

from .attention_rules import AttentionRules

comptime SPAN = 64
"""The most keys that are scored before their values are read."""


struct RunningSoftmax[value_dim: Int, width: Int](Movable):
    """The scores of a span, and what all spans so far add up to.

    Parameters:
        value_dim: The elements of a value.
        width: The elements of a vector; it divides `value_dim`.
    """

    var scores: List[Float32]
    """A span's scores, then weights, `[rows, SPAN]`."""

    var sums: List[Float32]
    """The weighted sums of values so far, `[rows, value_dim]`."""

    var largest: List[Float32]
    """The largest score so far, `[rows]`."""

    var weight: List[Float32]
    """The sum of weights so far, `[rows]`."""

    def __init__(out self, rows: Int):
        """Begins with no key at all.

        Args:
            rows: The rows of scores.
        """
        self.scores = List[Float32](unsafe_uninit_length=rows * SPAN)
        self.sums = List[Float32](length=rows * Self.value_dim, fill=0)
        self.largest = List[Float32](length=rows, fill=neg_inf[DType.float32]())
        self.weight = List[Float32](length=rows, fill=0)

    @always_inline
    def take(mut self, row: Int, begin: Int, end: Int, rules: AttentionRules):
        """Turns a row's scores into weights, rescaling what came before.

        Args:
            row: The row.
            begin: The span's first key that the row sees.
            end: One behind the last key that it sees.
            rules: What becomes of the scores.
        """
        comptime lanes = simd_width_of[DType.float32]()
        comptime Weights = SIMD[DType.float32, lanes]
        var scores = self.scores.unsafe_ptr().unsafe_offset(row * SPAN)
        var first, last = align_down(begin, lanes), align_up(end, lanes)
        comptime if rules.in_use.softcap:
            for key in range(first, last, lanes):
                var score = scores.unsafe_load[width=lanes](key)
                scores.unsafe_store(key, rules.capped(score))
        for key in range(first, begin):
            scores[unsafe_offset=key] = neg_inf[DType.float32]()
        for key in range(end, last):
            scores[unsafe_offset=key] = neg_inf[DType.float32]()
        var top = Weights(self.largest[row])
        for key in range(first, last, lanes):
            top = max(top, scores.unsafe_load[width=lanes](key))
        var largest = top.reduce_max()
        var fade = exp(self.largest[row] - largest)
        var total = Weights(0)
        for key in range(first, last, lanes):
            var weight = exp(scores.unsafe_load[width=lanes](key) - largest)
            scores.unsafe_store(key, weight)
            total += weight
        self.weight[row] = self.weight[row] * fade + total.reduce_add()
        self.largest[row] = largest
        if fade != 1:
            self._fade(row, fade)

    @always_inline
    def _fade(mut self, row: Int, fade: Float32):
        """Multiplies a row's sums."""
        var sums = self.sums.unsafe_ptr().unsafe_offset(row * Self.value_dim)
        comptime for i in range(0, Self.value_dim, Self.width):
            sums.unsafe_store(i, sums.unsafe_load[width=Self.width](i) * fade)
