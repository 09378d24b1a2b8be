"""Finds the sequence that a row of a ragged batch belongs to, on a GPU.

Each lookup waits for the one before: which sequence owns a row, how much of it
is cached, which page comes next. In a decode step, where each sequence has one
row, the answers are guessed, and checked when they are there. Elsewhere guesses
would be wrong, and reading them costs a third of the memory's rate.
"""

from kv_cache.types import KVCacheStaticParams
from max.gpu import WARP_SIZE, lane_id
from max.gpu.primitives.warp import shuffle_idx, vote
from std.bit import pop_count
from std.math import ceildiv

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .scales import Quantization


struct SequenceRows(TrivialRegisterPassable):
    """The rows of one sequence, and how many tokens come before them."""

    var seq: Int
    """The sequence."""

    var start: Int
    """Its first row."""

    var end: Int
    """The row after its last one."""

    var num_before: Int
    """The tokens before its first row."""

    @always_inline
    def __init__(out self):
        """Names no sequence: no row is held."""
        self.seq = 0
        self.start = 0
        self.end = 0
        self.num_before = 0

    @always_inline
    def __init__(out self, batch: RaggedBatch, seq: Int, num_before: Int):
        """Reads the rows of a sequence.

        Args:
            batch: The rows of each sequence.
            seq: The sequence.
            num_before: The tokens before its first row.
        """
        self.seq = seq
        self.start = batch.start(seq)
        self.end = batch.start(seq + 1)
        self.num_before = num_before

    @always_inline
    def holds(self, row: Int) -> Bool:
        """Returns whether a row is one of the sequence's.

        Args:
            row: The row.

        Returns:
            True if it is.
        """
        return self.start <= row and row < self.end

    @always_inline
    def position(self, row: Int) -> Int:
        """Returns a row's position in the sequence.

        Args:
            row: One of its rows.

        Returns:
            The position, from 0.
        """
        return self.num_before + row - self.start


struct RowGuess[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    *,
    after_cached: Bool,
    is_warp_wide: Bool,
    is_decode: Bool,
    quantization: Quantization = Quantization(),
](TrivialRegisterPassable):
    """What is read at once for a row, before it is known to be the right thing.

    Nothing is outside of a decode step: the row's sequence is searched, and its
    page looked up, one read after the other. So it is where a guess is wrong.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        after_cached: Whether a sequence's rows come after its cached tokens;
            else they start at position 0.
        is_warp_wide: Whether the lanes of a warp ask for the same row.
        is_decode: Whether no more rows are expected than sequences.
        quantization: Which elements of the pool share a scale.
    """

    comptime CacheType = PagedKVCache[
        Self.dtype, Self.kv_params, Self.page_size, Self.quantization
    ]
    """The view whose tables are read."""

    comptime looks_up = (
        Self.is_warp_wide and Self.after_cached and Self.is_decode
    )
    """Whether the first columns of the lookup table are read as well."""

    var rows: SequenceRows
    """The sequence with the row's number."""

    var entries: SIMD[DType.uint32, 2]
    """Its pages in this lane's columns: the lane's number, and a warp on."""

    @always_inline
    def __init__(out self, cache: Self.CacheType, batch: RaggedBatch, row: Int):
        """Starts to read.

        Args:
            cache: The view.
            batch: The rows of each sequence; there must be one.
            row: The row.
        """
        self.rows = SequenceRows()
        self.entries = 0
        comptime if not Self.is_decode:
            return
        var seq = min(row, Int(batch.batch_size) - 1)
        var cached = 0
        # Volatile, so that these loads stay here: the compiler would make them
        # one with those for a wrong guess, and wait until the guess is checked.
        comptime if Self.after_cached:
            cached = Int(
                cache.cache_lengths.ptr.unsafe_load[
                    volatile=True, invariant=False
                ](seq)
            )
        self.rows = SequenceRows(batch, seq, cached)
        comptime if Self.looks_up:
            var num_columns = Int(cache.lookup_table.dim[1]())
            comptime for i in range(2):
                var column = Int(lane_id()) + i * WARP_SIZE
                if column < num_columns:
                    self.entries[i] = cache.lookup_table.ptr.unsafe_load[
                        volatile=True, invariant=False
                    ](seq * num_columns + column)

    @always_inline
    def sequence(
        self, cache: Self.CacheType, batch: RaggedBatch, row: Int
    ) -> SequenceRows:
        """Returns the sequence that holds the row.

        Args:
            cache: The view.
            batch: The rows of each sequence.
            row: The row.

        Returns:
            The sequence; it does not hold a row that comes after all of them.
        """
        comptime if Self.is_decode:
            if self.rows.holds(row):
                return self.rows
        var seq: Int
        comptime if Self.is_warp_wide and WARP_SIZE == 32:
            seq = search_with_warp(batch, row)
        else:
            seq = batch.sequence_of(row)
        var cached = 0
        comptime if Self.after_cached:
            cached = cache.cache_length(seq)
        return SequenceRows(batch, seq, cached)

    @always_inline
    def token_offset(
        self, cache: Self.CacheType, rows: SequenceRows, row: Int
    ) -> Int:
        """Returns where the row's token lies.

        Args:
            cache: The view.
            rows: The sequence that holds the row.
            row: The row.

        Returns:
            The offset of the token's first head, in elements from the view.
        """
        var position = rows.position(row)
        comptime if Self.looks_up:
            var column, _ = divmod(UInt32(position), UInt32(Self.page_size))
            if rows.seq == self.rows.seq and column < UInt32(2 * WARP_SIZE):
                var lane = column % UInt32(WARP_SIZE)
                var page = shuffle_idx(self.entries[0], lane)
                var later = shuffle_idx(self.entries[1], lane)
                if column >= UInt32(WARP_SIZE):
                    page = later
                return cache.token_offset_in(Int(page), position)
        return cache.token_offset(rows.seq, position)


@always_inline
def search_with_warp[
    rows: Int = 1, spare: Int = 0
](batch: RaggedBatch, place: Int) -> Int:
    """Returns the last sequence that starts at or before a place.

    The lanes look at as many sequences at once, so that one round is enough for
    32 of them, and two for 1,024.

    Parameters:
        rows: The rows that make a place.
        spare: The places that are left free behind each sequence.

    Args:
        batch: The rows of each sequence; there must be one.
        place: The place.

    Returns:
        The sequence.
    """
    var low = 0
    var count = Int(batch.batch_size)
    while count > 1:
        var step = ceildiv(count, WARP_SIZE)
        var probe = (Int(lane_id()) + 1) * step
        var starts_before = False
        if probe < count:
            var seq = low + probe
            var start = UInt32(batch.start(seq)) // UInt32(rows)
            starts_before = Int(start) + spare * seq <= place
        var skipped = step * Int(pop_count(vote[DType.uint32](starts_before)))
        low += skipped
        count = min(step, count - skipped)
    return low
