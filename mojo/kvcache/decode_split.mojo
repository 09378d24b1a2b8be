"""Which chunks of keys a block of the decode kernel attends to.

The chunks of all sequences, end to end, are split evenly over the blocks: each
has the same work, whatever the lengths are, and one long sequence fills the
GPU. A block's share begins and ends anywhere, so that a sequence's chunks may
lie in the shares of several blocks.

See:
    [Stream-K](https://arxiv.org/abs/2301.03598), for shares of equal size.
"""

from max.gpu import lane_id
from max.gpu.primitives import warp
from std.bit import pop_count
from std.math import ceildiv

from .attention_rules import AttentionRules
from .decode_shape import CHUNK, LANES, DecodeShape
from .decode_shares import AT_ONCE, Split, sum_of_lanes
from .overlap import load_after_wait
from .ragged import RaggedBatch


struct Run[shape: DecodeShape](TrivialRegisterPassable):
    """The chunks of one sequence that are in a share.

    Chunks are counted over what the sequence's new token sees; `seen` says
    where they are.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime in_use = Self.shape.rules
    """The rules of the attention."""

    var lengths: Pointer[UInt32, ImmUntrackedOrigin]
    """Tokens cached before this step, `[batch_size]`; where blocks are chosen,
    the tokens in them, the new one included."""

    var batch: RaggedBatch
    """The rows of each sequence: one new token, or none."""

    var rules: AttentionRules[Self.in_use]
    """What a query sees."""

    var left: Int
    """Chunks of the share that are not behind, this run's included."""

    var before: Int
    """Chunks of the sequences before this one."""

    var seq: Int
    """The sequence."""

    var context: Int
    """The sequence's tokens, the new one included."""

    var chunks: Int
    """The chunks of the sequence."""

    var begin: Int
    """The run's first chunk."""

    var end: Int
    """The chunk behind the run's last."""

    def __init__(
        out self,
        lengths: Pointer[UInt32, ImmUntrackedOrigin],
        batch: RaggedBatch,
        rules: AttentionRules[Self.in_use],
    ):
        """Stands nowhere yet.

        Args:
            lengths: Tokens cached before this step, or chosen, `[batch_size]`.
            batch: The rows of each sequence.
            rules: What a query sees.
        """
        self.lengths = lengths
        self.batch = batch
        self.rules = rules
        self.left = 0
        self.before = 0
        self.seq = 0
        self.context = 0
        self.chunks = 0
        self.begin = 0
        self.end = 0

    @always_inline
    def start(
        mut self, share: Int, *, most_shares: Int, per_share: Int
    ) -> Split:
        """Goes to the first run of a share; a whole warp calls it.

        Args:
            share: The share; beyond the last one there is no run.
            most_shares: The most shares.
            per_share: The fewest chunks that are worth a share.

        Returns:
            How all chunks are split.
        """
        var batch_size = Int(self.batch.batch_size)
        var count = Int32(0)
        var counts = SIMD[DType.int32, AT_ONCE](0)
        # The first ones last: there the search begins.
        for turn in reversed(range(ceildiv(batch_size, AT_ONCE * LANES))):
            counts = self._counts(turn * AT_ONCE * LANES)
            count += counts.reduce_add()
        var total = sum_of_lanes(count)
        var shares = max(1, min(most_shares, Int(total) // per_share))
        var split = Split(total=total, shares=Int32(shares))
        if share < shares:
            var start = split.begin(Int32(share))
            self.left = Int(split.begin(Int32(share) + 1) - start)
            if self.left > 0:
                self._find(Int(start), counts)
        return split

    @always_inline
    def _find(mut self, start: Int, first_counts: SIMD[DType.int32, AT_ONCE]):
        """Goes to the run that begins with a chunk."""
        var counts = first_counts
        var behind = Int32(0)
        var count = Int32(0)
        var first = 0
        while True:
            comptime for row in range(AT_ONCE):
                if Int(behind) <= start:
                    self.before = Int(behind)
                    self.seq = first + row * LANES
                    count = counts[row]
                behind += sum_of_lanes(counts[row])
            if start < Int(behind):
                break
            first += AT_ONCE * LANES
            counts = self._counts(first)
        var before = Int32(self.before) + warp.prefix_sum[exclusive=True](count)
        var lane = pop_count(warp.vote[DType.uint32](Int(before) <= start)) - 1
        self.before = Int(warp.shuffle_idx(before, lane))
        self.seq += Int(lane)
        self._measure()
        self.begin = start - self.before
        self.end = min(self.chunks, self.begin + self.left)

    @always_inline
    def _counts(self, first: Int) -> SIMD[DType.int32, AT_ONCE]:
        """Returns the chunks of sequences; a lane has every thirty-second."""
        var counts = SIMD[DType.int32, AT_ONCE](0)
        comptime for row in range(AT_ONCE):
            var seq = first + row * LANES + Int(lane_id())
            var last = Int(self.batch.batch_size) - 1
            var count = Int32(self._chunks_of(min(seq, last)))
            counts[row] = count if seq <= last else 0
        return counts

    @always_inline
    def is_open(self) -> Bool:
        """Returns whether there is a run, or they are all behind.

        Returns:
            Whether there is.
        """
        return self.left > 0

    @always_inline
    def is_whole(self) -> Bool:
        """Returns whether the run has all chunks of its sequence.

        Returns:
            Whether it has.
        """
        return self.begin == 0 and self.end == self.chunks

    @always_inline
    def next(mut self):
        """Goes to the share's next run."""
        self.left -= self.end - self.begin
        if self.left == 0:
            return
        self.before += self.chunks
        self.begin = 0
        self.seq += 1
        self._measure()
        while self.chunks == 0:
            self.seq += 1
            self._measure()
        self.end = min(self.chunks, self.left)

    @always_inline
    def seen(self, chunk: Int) -> Int:
        """Returns the position of a chunk's first key.

        Args:
            chunk: The chunk.

        Returns:
            The position, a multiple of the chunk's length.
        """
        comptime if Self.in_use.window:
            if chunk * CHUNK >= self.rules.num_sink_tokens():
                return (chunk + self._gap(self.context)) * CHUNK
        return chunk * CHUNK

    @always_inline
    def sees(self, position: Int) -> Bool:
        """Returns whether the new token sees a position.

        Args:
            position: The position.

        Returns:
            Whether it does.
        """
        var is_seen = position < self.context
        comptime if Self.in_use.window:
            is_seen = is_seen and (
                position >= self.rules.window_start(self.context - 1)
                or position < self.rules.num_sink_tokens()
            )
        return is_seen

    @always_inline
    def sees_chunk(self, position: Int) -> Bool:
        """Returns whether the new token sees all keys of a chunk.

        Args:
            position: The position of the chunk's first key.

        Returns:
            Whether it does.
        """
        var is_seen = position + CHUNK <= self.context
        comptime if Self.in_use.window:
            is_seen = is_seen and (
                position >= self.rules.window_start(self.context - 1)
                or position + CHUNK <= self.rules.num_sink_tokens()
            )
        return is_seen

    @always_inline
    def _gap(self, context: Int) -> Int:
        """Returns how many whole chunks the new token does not see."""
        comptime if Self.in_use.window:
            var first = self.rules.window_start(context - 1) // CHUNK
            return max(0, first - ceildiv(self.rules.num_sink_tokens(), CHUNK))
        return 0

    @always_inline
    def _chunks_of(self, seq: Int) -> Int:
        """Returns the chunks that a sequence's new token sees."""
        comptime if not Self.shape.block_size:
            var context = self._context_of(seq)
            var chunks = ceildiv(context, CHUNK) - self._gap(context)
            var is_empty = self.batch.start(seq + 1) == self.batch.start(seq)
            return 0 if is_empty else chunks
        var context = self._context_of(seq)
        return ceildiv(context, CHUNK) - self._gap(context)

    @always_inline
    def _measure(mut self):
        self.chunks = self._chunks_of(self.seq)
        self.context = self._context_of(self.seq)

    @always_inline
    def _context_of(self, seq: Int) -> Int:
        """Returns a sequence's tokens, or those in its chosen blocks."""
        comptime if Self.shape.block_size:
            return Int(load_after_wait[1](self.lengths.unsafe_offset(seq)))
        return Int(self.lengths[unsafe_offset=seq]) + 1
