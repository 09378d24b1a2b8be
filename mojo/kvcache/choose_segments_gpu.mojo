"""Chooses blocks of listed segments by their scores, on a GPU."""

from max.gpu import block_idx
from max.gpu.host import DeviceContext, FuncAttribute
from std.memory import AddressSpace, stack_allocation

from .choose_gpu import (
    FEW_BLOCKS,
    FEW_THREADS,
    MANY_THREADS,
    MOST_HELD,
    choose_row,
)
from .overlap import await_kernels_before, overlapping_launch
from .score_keys import DIGITS
from .segment_choice import SegmentChoice


def choose_segments_kernel[
    threads: Int
](choice: SegmentChoice, most_held: Int32):
    """Chooses the blocks of one segment.

    Parameters:
        threads: The threads of the block.

    Args:
        choice: The tensors.
        most_held: The keys that shared memory has room for.
    """
    await_kernels_before()
    var counts = stack_allocation[
        DIGITS + 4, Int32, address_space=AddressSpace.SHARED
    ]()
    var row = Int(block_idx.x)
    var num_blocks = choice.segments.num_blocks(row)
    var count = choice.num_chosen(row, num_blocks)
    choose_row[threads](choice, row, num_blocks, count, Int(most_held), counts)


def choose_segments_gpu(choice: SegmentChoice, ctx: DeviceContext) raises:
    """Launches the kernel, a block of threads for each segment.

    Args:
        choice: The tensors.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    if choice.segments.num_sequences() == 0:
        return

    def launch[threads: Int]() raises {imm}:
        comptime kernel = choose_segments_kernel[threads]
        comptime most_bytes = 4 * MOST_HELD
        var most_held = min(choice.segments.width(), MOST_HELD)
        ctx.enqueue_function[kernel](
            choice,
            Int32(most_held),
            grid_dim=choice.segments.num_sequences(),
            block_dim=threads,
            shared_mem_bytes=4 * most_held,
            attributes=overlapping_launch(),
            func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(
                UInt32(most_bytes)
            ),
        )

    if choice.segments.width() <= FEW_BLOCKS:
        launch[FEW_THREADS]()
    else:
        launch[MANY_THREADS]()
