"""Chooses blocks of listed segments by their scores, on the CPU."""

from .choose_cpu import GRAIN_BLOCKS, choose_row
from .parallel import parallel_ranges
from .segment_choice import SegmentChoice


def choose_segments_cpu(choice: SegmentChoice) raises:
    """Chooses the blocks of every segment.

    Args:
        choice: The tensors.

    Raises:
        If a task fails.
    """

    def work(begin: Int, end: Int) raises {imm}:
        for row in range(begin, end):
            var num_blocks = choice.segments.num_blocks(row)
            var keys = List[UInt32](unsafe_uninit_length=num_blocks)
            var count = choice.num_chosen(row, num_blocks)
            choose_row(choice, row, num_blocks, count, keys)

    var num_segments = choice.segments.num_sequences()
    var num_blocks = 0
    for row in range(num_segments):
        num_blocks += choice.segments.num_blocks(row)
    parallel_ranges(
        work, num_items=num_segments, amount=num_blocks, grain=GRAIN_BLOCKS
    )
