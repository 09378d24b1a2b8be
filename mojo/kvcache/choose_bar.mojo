"""Finds the bar that the highest of a row's keys reach, on a GPU.

Digits are counted in shared memory, from the highest one on; a pass looks at
the keys that begin with the digits found before.
"""

from max.gpu import WARP_SIZE, barrier, lane_id, thread_idx
from max.gpu.memory import external_memory
from max.gpu.primitives import warp
from std.atomic import Atomic, Ordering
from std.memory import AddressSpace

from .overlap import load_after_wait
from .score_keys import DIGITS, DIGIT_BITS, KEY_BITS, Bar, sortable
from .shared_memory import Shared


struct Keys(TrivialRegisterPassable):
    """The keys of one row, in shared memory if they fit it."""

    var scores: Pointer[Float32, ImmUntrackedOrigin]
    """The scores."""

    var held: Shared[UInt32]
    """Their keys."""

    var length: Int
    """How many there are."""

    var is_held: Bool
    """Whether the keys are in shared memory."""

    @always_inline
    def __init__(
        out self,
        scores: Pointer[Float32, ImmUntrackedOrigin],
        *,
        length: Int,
        most_held: Int,
    ):
        """Names the scores.

        Args:
            scores: The scores.
            length: How many there are.
            most_held: The keys that shared memory has room for.
        """
        self.scores = scores
        self.held = external_memory[
            UInt32, address_space=AddressSpace.SHARED, alignment=16
        ]()
        self.length = length
        self.is_held = length <= most_held

    @always_inline
    def hold[threads: Int](self):
        """Brings the keys into shared memory, if they fit.

        Parameters:
            threads: The threads of the block, which all call it.
        """
        if self.is_held:
            for i in range(Int(thread_idx.x), self.length, threads):
                self.held[unsafe_offset=i] = self._read(i)

    @always_inline
    def _read(self, i: Int) -> UInt32:
        return sortable(load_after_wait[1](self.scores.unsafe_offset(i)))

    @always_inline
    def get(self, i: Int) -> UInt32:
        """Returns a key.

        Args:
            i: Which one.

        Returns:
            The key.
        """
        return self.held[unsafe_offset=i] if self.is_held else self._read(i)


@always_inline
def find_bar[
    threads: Int
](keys: Keys, wanted: Int, counts: Shared[Int32]) -> Bar:
    """Finds what the highest keys reach; all threads of the block call it.

    Parameters:
        threads: The threads of the block.

    Args:
        keys: The keys.
        wanted: How many are chosen, from 1 to all but one.
        counts: Room for `DIGITS + 3` numbers.

    Returns:
        The bar, the same in all threads.
    """
    var bar = Bar(wanted)
    comptime for turn in range(KEY_BITS // DIGIT_BITS):
        comptime shift = KEY_BITS - (turn + 1) * DIGIT_BITS
        for i in range(Int(thread_idx.x), DIGITS, threads):
            counts[unsafe_offset=i] = 0
        barrier()
        for i in range(Int(thread_idx.x), keys.length, threads):
            var key = keys.get(i)
            if bar.is_at(key):
                var digit = Int((key >> UInt32(shift)) % DIGITS)
                _ = Atomic.fetch_add[ordering=Ordering.RELAXED](
                    counts.unsafe_offset(digit), 1
                )
        barrier()
        if Int(thread_idx.x) < WARP_SIZE:
            _find_digit(counts, bar.wanted)
        barrier()
        var digit = UInt32(counts[unsafe_offset=DIGITS])
        bar.learn(digit, shift, counts[unsafe_offset=DIGITS + 1])
        if counts[unsafe_offset=DIGITS + 2] == bar.wanted:
            return bar
    return bar


@always_inline
def _find_digit(counts: Shared[Int32], wanted: Int32):
    """Finds the digit at which enough keys are counted, from the highest.

    One warp calls it. Behind the counts it leaves the digit, the keys above it,
    and the keys at it.
    """
    comptime per_lane = DIGITS // WARP_SIZE
    var first = DIGITS - per_lane * (Int(lane_id()) + 1)
    var sum = Int32(0)
    comptime for i in range(per_lane):
        sum += counts[unsafe_offset=first + i]
    var above = warp.prefix_sum[exclusive=True](sum)
    if above < wanted and above + sum >= wanted:
        var digit = first + per_lane - 1
        while above + counts[unsafe_offset=digit] < wanted:
            above += counts[unsafe_offset=digit]
            digit -= 1
        counts[unsafe_offset=DIGITS] = Int32(digit)
        counts[unsafe_offset=DIGITS + 1] = above
        counts[unsafe_offset=DIGITS + 2] = counts[unsafe_offset=digit]
