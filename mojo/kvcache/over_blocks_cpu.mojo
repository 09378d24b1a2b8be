"""Computes over the scored blocks of each sequence, on the CPU."""

from std.utils.numerics import neg_inf

from .block_source import BlockSource, total_scored
from .over_blocks import OverBlocks, SOFTMAX
from .parallel import parallel_ranges

comptime GRAIN_ELEMENTS = 1 << 14
"""The fewest elements to compute with that are worth a task."""


def over_blocks_cpu[
    Tables: BlockSource, //, work: OverBlocks
](
    source: Pointer[Float32, MutUntrackedOrigin],
    result: Pointer[Float32, MutUntrackedOrigin],
    tables: Tables,
    *,
    num_kv_heads: Int,
) raises:
    """Computes for the sequences of one new token, spread over the cores.

    Parameters:
        Tables: What finds the sequences' blocks.
        work: What is computed.

    Args:
        source: The elements, `[batch_size, num_kv_heads, width, length]`.
        result: Receives the result, of the same shape, or without the third
            axis.
        tables: The step.
        num_kv_heads: The key-value heads held on this device.

    Raises:
        If a task fails.
    """

    def compute(begin: Int, end: Int) raises {imm}:
        for item in range(begin, end):
            var num_blocks = tables.num_scored(item // num_kv_heads)
            if num_blocks == 0:
                continue
            var x = source.unsafe_offset(tables.first_tile(item) * work.length)
            for i in range(work.length):
                var last = num_blocks * work.length
                var largest = neg_inf[DType.float32]()
                comptime if work.kind == SOFTMAX:
                    for at in range(i, last, work.length):
                        largest = max(largest, x[unsafe_offset=at] * work.scale)
                var sum = work.first_sum()
                for at in range(i, last, work.length):
                    sum = work.add(sum, x[unsafe_offset=at], largest)
                comptime if work.is_per_block():
                    var y = result.unsafe_offset(
                        tables.first_tile(item) * work.length
                    )
                    for at in range(i, last, work.length):
                        y[unsafe_offset=at] = work.of_block(
                            x[unsafe_offset=at], sum, largest
                        )
                else:
                    result[unsafe_offset=item * work.length + i] = work.of_all(
                        sum, num_blocks
                    )

    parallel_ranges(
        compute,
        num_items=tables.num_sequences() * num_kv_heads,
        amount=total_scored(tables) * num_kv_heads * work.length,
        grain=GRAIN_ELEMENTS,
    )
