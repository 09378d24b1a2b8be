"""What a warp of the decode kernel sums up, on the tensor cores.

The keys of a chunk are the rows of a matrix product whose columns are the query
heads of a group: eight columns hold most groups. The softmax is computed on the
fly, in powers of two.

See:
    [Online softmax](https://arxiv.org/abs/1805.02867), for the running
    maximum, and the PTX manual, for how matrices lie over a warp's lanes.
"""

from max.gpu import lane_id
from max.gpu.compute.mma import mma
from max.gpu.primitives import warp
from std.math import exp2
from std.utils.numerics import neg_inf

from .attention_rules import LOG2_E, NOTHING
from .decode_call import DecodeCall
from .decode_factors import (
    key_factors,
    max_of_rows,
    query_factor,
    right_factor,
    value_factors,
)
from .decode_shape import CHUNK, DecodeShape
from .decode_split import Run
from .decode_stage import scales_in
from .shared_memory import Shared


struct WarpSums[shape: DecodeShape]:
    """A warp's part of one sequence under one key-value head.

    Lane `l` holds the query heads `2 * (l % 4)` and the next of each column.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime columns = Self.shape.columns()
    """Tiles of eight query heads."""

    comptime steps = Self.shape.steps()
    """Tiles of sixteen elements of a head."""

    comptime half = Self.shape.half()
    """What the tensor cores multiply."""

    comptime Tile = SIMD[DType.float32, 4]
    """A lane's part of sixteen rows and eight columns."""

    comptime Factor = SIMD[Self.half, 4]
    """A lane's part of the right factor of a product."""

    var queries: Array[Self.Factor, Self.steps * Self.columns]
    """The queries of the group."""

    var largest: Array[Float32, 2 * Self.columns]
    """The largest score so far of each query head, times `LOG2_E`."""

    var weight: Array[Float32, 2 * Self.columns]
    """The lane's part of the sum of weights so far."""

    var sums: Array[Self.Tile, Self.steps * Self.columns]
    """The weighted sums of values so far, in units of `unit`."""

    var unit: Float32
    """The largest scale of a value so far; 1 without quantisation."""

    def __init__(out self, call: DecodeCall[Self.shape], run: Run[Self.shape]):
        """Loads the queries.

        Args:
            call: The tensors.
            run: The run that is to be summed up.
        """
        self.queries = Array[Self.Factor, Self.steps * Self.columns](fill=0)
        self.largest = Array[Float32, 2 * Self.columns](fill=NOTHING)
        self.weight = Array[Float32, 2 * Self.columns](fill=0)
        self.sums = Array[Self.Tile, Self.steps * Self.columns](fill=0)
        self.unit = 0 if Self.shape.is_quantized() else 1
        var lane = Int(lane_id())
        var first = call.first_query(run.seq, call.head())
        comptime for column in range(Self.columns):
            var g = min(column * 8 + lane // 4, Self.shape.group() - 1)
            var query = call.queries.unsafe_offset(
                first + g * Self.shape.head_dim()
            )
            comptime for step in range(Self.steps):
                self.queries[step * Self.columns + column] = query_factor[
                    Self.shape
                ](query.unsafe_offset(step * 16), lane % 4)

    @always_inline
    def attend(
        mut self,
        call: DecodeCall[Self.shape],
        run: Run[Self.shape],
        chunk: Int,
        stage: Shared[UInt8],
    ):
        """Adds a chunk.

        Args:
            call: The tensors.
            run: The run that the chunk is in.
            chunk: The chunk.
            stage: Where it lies.
        """
        var scores = self._score(call, stage)
        var position = run.seen(chunk)
        if not run.sees_chunk(position):
            var row = position + Int(lane_id()) // 4
            comptime for column in range(Self.columns):
                comptime for half in range(2):
                    if not run.sees(row + 8 * half):
                        scores[column][2 * half] = neg_inf[DType.float32]()
                        scores[column][2 * half + 1] = neg_inf[DType.float32]()
        var scales = SIMD[DType.float32, 2](1)
        var fade = Float32(1)
        comptime if Self.shape.is_quantized():
            scales = self._value_scales(stage, fade)
        var weights = Array[Self.Factor, 2 * Self.columns](fill=0)
        comptime for column in range(Self.columns):
            self._soften[column](scores[column], fade)
            var exact = scores[column] * Self.Tile(
                scales[0], scales[0], scales[1], scales[1]
            )
            var rounded = exact.cast[Self.half]()
            weights[column] = right_factor(rounded)
            comptime if not Self.shape.is_quantized():
                var rest = exact - rounded.cast[DType.float32]()
                weights[Self.columns + column] = right_factor(
                    rest.cast[Self.half]()
                )
        self._add_values(stage, weights)

    @always_inline
    def _score(
        self, call: DecodeCall[Self.shape], stage: Shared[UInt8]
    ) -> Array[Self.Tile, Self.columns]:
        """Multiplies a chunk's keys with the queries."""
        var even = Array[Self.Tile, Self.columns](fill=0)
        var odd = Array[Self.Tile, Self.columns](fill=0)
        comptime for step in range(0, Self.steps, 2):
            var keys = key_factors[Self.shape](stage, step)
            comptime for column in range(Self.columns):
                comptime first = step * Self.columns + column
                var sum = even[column]
                mma(
                    even[column],
                    keys.slice[8](),
                    self.queries[first],
                    sum,
                )
                sum = odd[column]
                mma(
                    odd[column],
                    keys.slice[8, offset=8](),
                    self.queries[first + Self.columns],
                    sum,
                )
        var factors = Self.Tile(call.rules.scale)
        comptime if Self.shape.is_quantized():
            var row = Int(lane_id()) // 4
            var scales = scales_in[Self.shape](stage)
            var upper = scales[unsafe_offset=row]
            var lower = scales[unsafe_offset=row + 8]
            factors *= Self.Tile(upper, upper, lower, lower)
        comptime for column in range(Self.columns):
            even[column] = (
                call.rules.capped((even[column] + odd[column]) * factors)
                * LOG2_E
            )
        return even^

    @always_inline
    def _value_scales(
        mut self, stage: Shared[UInt8], mut fade: Float32
    ) -> SIMD[DType.float32, 2]:
        """Returns the scales of the lane's two values, in the new unit.

        Weights times scales must not leave the range of float16.
        """
        var row = Int(lane_id()) // 4
        var scales = scales_in[Self.shape](stage).unsafe_offset(CHUNK)
        var own = SIMD[DType.float32, 2](
            scales[unsafe_offset=row], scales[unsafe_offset=row + 8]
        )
        var top = max_of_rows(own.reduce_max())
        if top > self.unit:
            fade = self.unit / top
            self.unit = top
        return own / self.unit

    @always_inline
    def _soften[
        column: Int
    ](mut self, mut scores: Self.Tile, scale_fade: Float32):
        """Turns scores into weights, and rescales what came before."""
        comptime for side in range(2):
            comptime at = 2 * column + side
            var top = max(
                self.largest[at],
                max_of_rows(max(scores[side], scores[side + 2])),
            )
            var fade = exp2(self.largest[at] - top)
            self.largest[at] = top
            scores[side] = exp2(scores[side] - top)
            scores[side + 2] = exp2(scores[side + 2] - top)
            self.weight[at] = (
                self.weight[at] * fade + scores[side] + scores[side + 2]
            )
            fade *= scale_fade
            comptime for step in range(Self.steps):
                comptime tile = step * Self.columns + column
                self.sums[tile][side] *= fade
                self.sums[tile][side + 2] *= fade

    @always_inline
    def _add_values(
        mut self,
        stage: Shared[UInt8],
        weights: Array[Self.Factor, 2 * Self.columns],
    ):
        """Adds a chunk's values, times their weights.

        A weight is the sum of two halves, so that nothing of it is lost; with
        codes, whose own error is larger, of one.
        """
        comptime parts = 1 if Self.shape.is_quantized() else 2
        var plane = stage.unsafe_offset(Self.shape.plane_bytes())
        comptime for step in range(0, Self.steps, 2):
            var values = value_factors[Self.shape](plane, step)
            comptime for column in range(Self.columns):
                comptime for part in range(parts):
                    var factor = weights[part * Self.columns + column]
                    comptime for side in range(2):
                        comptime at = (step + side) * Self.columns + column
                        var sum = self.sums[at]
                        mma(
                            self.sums[at],
                            values.slice[8, offset=8 * side](),
                            factor,
                            sum,
                        )

    @always_inline
    def tell(self, part: Shared[Float32]):
        """Writes what was summed up.

        Args:
            part: Receives `part_length` numbers.
        """
        var lane = Int(lane_id())
        var tops = part.unsafe_offset(
            Self.shape.group() * Self.shape.head_dim()
        )
        comptime for column in range(Self.columns):
            comptime for side in range(2):
                comptime at = 2 * column + side
                var weight = self.weight[at]
                weight += warp.shuffle_xor(weight, 4)
                weight += warp.shuffle_xor(weight, 8)
                weight += warp.shuffle_xor(weight, 16)
                var g = column * 8 + lane % 4 * 2 + side
                if g < Self.shape.group():
                    if lane < 4:
                        tops[unsafe_offset=2 * g] = self.largest[at]
                        tops[unsafe_offset=2 * g + 1] = weight
                    self._tell_sums[column, side](
                        part.unsafe_offset(g * Self.shape.head_dim())
                    )

    @always_inline
    def _tell_sums[column: Int, side: Int](self, head: Shared[Float32]):
        comptime is_quantized = Self.shape.is_quantized()
        comptime apart = 1 if is_quantized else 8
        var first = Int(lane_id()) // 4 * (2 if is_quantized else 1)
        comptime for step in range(Self.steps):
            var sums = self.sums[step * Self.columns + column] * self.unit
            var row = head.unsafe_offset(step * 16 + first)
            row[unsafe_offset=0] = sums[side]
            row[unsafe_offset=apart] = sums[side + 2]
