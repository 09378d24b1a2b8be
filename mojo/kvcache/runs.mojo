"""Walks a ragged batch in runs that stay inside one page."""

from std.atomic import Ordering, fence
from std.sys import size_of

from .cache import PagedKVCache
from .parallel import GRAIN_BYTES, parallel_ranges
from .ragged import RaggedBatch

comptime QUANTIZED_BYTES = 16
"""As many bytes are moved while one element is quantised, or the reverse."""


@fieldwise_init
struct PageRun(TrivialRegisterPassable):
    """Consecutive rows that are tokens of one page."""

    var row: Int
    """The first row."""

    var seq: Int
    """The sequence."""

    var position: Int
    """The first token's position."""

    var length: Int
    """How many there are."""


def parallel_page_runs[
    WorkType: def(PageRun) raises -> None, //, *, after_cached: Bool
](work: WorkType, cache: PagedKVCache, batch: RaggedBatch,) raises:
    """Calls `work(run)` for rows that share a page.

    Parameters:
        WorkType: The type of the function.
        after_cached: Whether a sequence's rows come after its cached tokens;
            else they start at position 0.

    Args:
        work: The function. Calls run at the same time.
        cache: The cache that the positions refer to.
        batch: The rows of each sequence.

    Raises:
        If a call of `work` does.
    """
    comptime element_bytes = (
        QUANTIZED_BYTES if cache.quantization_enabled else size_of[
            cache.dtype_
        ]()
    )
    comptime row_bytes = cache.page_layout.token_stride * element_bytes

    def walk(begin: Int, end: Int) raises {imm}:
        var row = begin
        while row < end:
            var seq = batch.sequence_of(row)
            var position = row - batch.start(seq)
            comptime if after_cached:
                position += cache.cache_length(seq)
            var _, slot = cache.page_layout.locate(position)
            var run = min(
                min(batch.start(seq + 1), end) - row, cache.page_size - slot
            )
            work(PageRun(row, seq, position, run))
            row += run
        # Whoever goes on sees what went past the caches.
        fence[ordering=Ordering.SEQUENTIAL]()

    parallel_ranges(
        walk,
        num_items=batch.num_rows(),
        amount=batch.num_rows() * row_bytes,
        grain=GRAIN_BYTES,
    )
