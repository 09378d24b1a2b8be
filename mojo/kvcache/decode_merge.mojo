"""Puts together what warps, and then blocks, have summed up of a sequence.

A part is the weighted sums of values of a group's query heads, and for each of
them the largest score and the sum of weights. Parts are merged in the end by
the block that is the last one to tell its own: no second launch is needed.
"""

from max.gpu import barrier, thread_idx
from std.math import exp2
from std.memory import AddressSpace, bitcast
from std.sys._assembly import inlined_assembly

from .attention_rules import LOG2_E, NOTHING
from .decode_call import DecodeCall
from .decode_shape import LANES, DecodeShape
from .decode_shares import Split
from .decode_split import Run
from .shared_memory import Shared

comptime AHEAD = 18
"""The parts that a thread loads at once."""

comptime WIDTH = 4
"""The elements that a thread merges."""


struct Merged(TrivialRegisterPassable):
    """A few elements of one query head's weighted sums of values."""

    var largest: Float32
    """The largest score so far, times `LOG2_E`."""

    var weight: Float32
    """The sum of weights so far."""

    var sums: SIMD[DType.float32, WIDTH]
    """The weighted sums so far."""

    def __init__(out self):
        """Starts with nothing."""
        self.largest = NOTHING
        self.weight = 0
        self.sums = 0

    @always_inline
    def raise_to(mut self, largest: Float32):
        """Rescales to a score that is at least the largest.

        Args:
            largest: The score.
        """
        var fade = exp2(self.largest - largest)
        self.largest = largest
        self.weight *= fade
        self.sums *= fade

    @always_inline
    def add(
        mut self,
        largest: Float32,
        weight: Float32,
        sums: SIMD[DType.float32, WIDTH],
    ):
        """Adds a part whose largest score is not above the largest.

        Args:
            largest: The part's largest score.
            weight: Its sum of weights.
            sums: Its weighted sums.
        """
        var share = exp2(largest - self.largest)
        self.weight += weight * share
        self.sums += sums * share


struct Merger[shape: DecodeShape](TrivialRegisterPassable):
    """Merges the parts of one run.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime length = Self.shape.part_length()
    """The numbers of a part."""

    comptime sums_length = Self.shape.group() * Self.shape.head_dim()
    """Those of them that are weighted sums."""

    comptime items = Self.shape.heads() * Self.sums_length // WIDTH
    """What the block's threads have to merge."""

    comptime threads = Self.shape.warps() * LANES
    """The threads of a block."""

    var call: DecodeCall[Self.shape]
    """The tensors."""

    var run: Run[Self.shape]
    """The run."""

    def __init__(out self, call: DecodeCall[Self.shape], run: Run[Self.shape]):
        """Names the run.

        Args:
            call: The tensors.
            run: The run.
        """
        self.call = call
        self.run = run

    def merge(
        self, told: Shared[Float32], split: Split, is_last: Shared[UInt32]
    ):
        """Merges the warps' parts; all threads of the block call it.

        Args:
            told: The warps' parts, `[warps, part_length]`.
            split: How the chunks are split.
            is_last: A word of shared memory.
        """
        for item in range(Int(thread_idx.x), Self.items, Self.threads):
            self._merge_warps(told, item)
        if not self.run.is_whole():
            var first = split.share_of(self.run.before)
            var last = split.share_of(self.run.before + self.run.chunks - 1)
            if self._arrives_last(first, last, is_last):
                for item in range(Int(thread_idx.x), Self.items, Self.threads):
                    self._merge_blocks(item, first, last)

    @always_inline
    def _merge_warps(self, told: Shared[Float32], item: Int):
        comptime ways = Self.shape.warps() // Self.shape.heads()
        comptime apart = Self.shape.heads() * Self.length
        var member, at = divmod(item * WIDTH, Self.sums_length)
        var part = told.unsafe_offset(member * Self.length)
        var tops = part.unsafe_offset(
            Self.sums_length + 2 * (at // Self.shape.head_dim())
        )
        var largest = NOTHING
        comptime for way in range(ways):
            largest = max(largest, tops[unsafe_offset=way * apart])
        var merged = Merged()
        merged.raise_to(largest)
        comptime for way in range(ways):
            merged.add(
                tops[unsafe_offset=way * apart],
                tops[unsafe_offset=way * apart + 1],
                part.unsafe_load[width=WIDTH, alignment=16](way * apart + at),
            )
        if self.run.is_whole():
            self._write(member, at, merged)
        else:
            self._tell(member, at, merged)

    @always_inline
    def _tell(self, member: Int, at: Int, merged: Merged):
        """Writes a part of the block's for the other blocks to see."""
        var part = self.call.part(
            share=self.call.share(),
            head=self.call.first_head() + member,
            is_first=self.run.begin == 0,
        )
        part.unsafe_store[alignment=16](at, merged.sums)
        var g, dim = divmod(at, Self.shape.head_dim())
        if dim == 0:
            part[unsafe_offset=Self.sums_length + 2 * g] = merged.largest
            part[unsafe_offset=Self.sums_length + 2 * g + 1] = merged.weight

    @always_inline
    def _arrives_last(
        self, first: Int, last: Int, is_last: Shared[UInt32]
    ) -> Bool:
        """Counts the block; returns whether all others were there before.

        The counter goes back to zero with the last one.
        """
        barrier()
        if thread_idx.x == 0:
            var before = inlined_assembly[
                "atom.acq_rel.gpu.global.inc.u32 $0, [$1], $2;",
                UInt32,
                constraints="=r,l,r,~{memory}",
            ](self.call.counter(first), UInt32(last - first))
            is_last[unsafe_offset=0] = UInt32(Int(before) == last - first)
        barrier()
        return is_last[unsafe_offset=0] != 0

    @always_inline
    def _merge_blocks(self, item: Int, first: Int, last: Int):
        var member, at = divmod(item * WIDTH, Self.sums_length)
        var top = Self.sums_length + 2 * (at // Self.shape.head_dim())
        var merged = Merged()
        for start in range(first, last + 1, AHEAD):
            var sums = Array[SIMD[DType.float32, WIDTH], AHEAD](fill=0)
            var tops = Array[SIMD[DType.float32, 2], AHEAD](
                fill=SIMD[DType.float32, 2](NOTHING, 0)
            )
            comptime for i in range(AHEAD):
                if start + i <= last:
                    var part = self.call.part(
                        share=start + i,
                        head=self.call.first_head() + member,
                        is_first=start + i == first,
                    )
                    # Volatile: not from this multiprocessor's own cache.
                    sums[i] = part.unsafe_load[
                        width=WIDTH, alignment=16, volatile=True
                    ](at)
                    tops[i] = part.unsafe_load[
                        width=2, alignment=8, volatile=True
                    ](top)
            var largest = merged.largest
            comptime for i in range(AHEAD):
                largest = max(largest, tops[i][0])
            merged.raise_to(largest)
            comptime for i in range(AHEAD):
                merged.add(tops[i][0], tops[i][1], sums[i])
        self._write(member, at, merged)

    @always_inline
    def _write(self, member: Int, at: Int, merged: Merged):
        """Writes elements of the result."""
        var head = self.call.first_head() + member
        var weight = merged.weight
        var factor = Float32(1)
        comptime if Self.shape.rules.sinks:
            var g = at // Self.shape.head_dim()
            var sink = LOG2_E * self.call.rules.first_largest(
                head * Self.shape.group() + g
            )
            var largest = max(sink, merged.largest)
            factor = exp2(merged.largest - largest)
            weight = weight * factor + exp2(sink - largest)
        _store_result(
            self.call.output.unsafe_offset(
                self.call.first_query(self.run.seq, head) + at
            ),
            (merged.sums * (factor / weight)).cast[Self.shape.dtype](),
        )


@always_inline
def _store_result[
    dtype: DType, //
](target: Pointer[Scalar[dtype], MutUntrackedOrigin], numbers: SIMD[dtype, 4]):
    """Stores elements of the result, to be kept in the second-level cache.

    The next kernel reads them. Written while keys and values stream through the
    cache, they take ten times their share of the memory's time.
    """
    var words = bitcast[DType.uint32, 2](numbers)
    var policy = inlined_assembly[
        "createpolicy.fractional.L2::evict_last.b64 $0, 1.0;",
        UInt64,
        constraints="=l",
    ]()
    inlined_assembly[
        "st.global.L2::cache_hint.v2.u32 [$0], {$1, $2}, $3;",
        NoneType,
        constraints="l,r,r,l,~{memory}",
    ](target, words[0], words[1], policy)
