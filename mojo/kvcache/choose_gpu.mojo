"""Chooses blocks by their scores, on a GPU.

A block of threads has the scores of one sequence under one head. It finds the
bar that the highest keys reach, a digit a pass, and writes the chosen blocks in
their order: places come from prefix sums, so nothing depends on timing.
"""

from max.gpu import WARP_SIZE, barrier, block_idx, lane_id, thread_idx
from max.gpu.host import DeviceContext, FuncAttribute
from max.gpu.primitives import warp
from std.bit import pop_count
from std.math import ceildiv
from std.memory import AddressSpace, stack_allocation

from .block_choice import BlockChoice, ChoiceShape
from .choose_bar import Keys, find_bar
from .overlap import await_kernels_before, overlapping_launch
from .ranked_rows import RankedRows
from .score_keys import DIGITS, Bar
from .shared_memory import Shared

comptime MOST_HELD = 48 * 1024
"""The most keys that are held in shared memory; more are read in each pass."""

comptime FEW_BLOCKS = 2048
"""The most blocks of a sequence that few threads choose from."""

comptime FEW_THREADS = 256
"""The threads that choose from few blocks."""

comptime MANY_THREADS = 1024
"""The threads that choose from many."""


@always_inline
def write_chosen[
    Rows: RankedRows, //, threads: Int
](choice: Rows, keys: Keys, bar: Bar, row: Int, counts: Shared[Int32],):
    """Writes the blocks whose keys reach the bar, in their order.

    Each warp has consecutive keys: it counts them, learns how many come
    before, and writes.

    Parameters:
        Rows: The layout of scores and blocks.
        threads: The threads of the block, which all call it.

    Args:
        choice: The tensors.
        keys: The keys.
        bar: What keys must reach.
        row: The sequence and head.
        counts: Room for two numbers of each warp.
    """
    comptime warps = threads // WARP_SIZE
    var own, lane = divmod(Int(thread_idx.x), WARP_SIZE)
    var share = ceildiv(ceildiv(keys.length, warps), WARP_SIZE) * WARP_SIZE
    var begin = own * share
    var end = min(keys.length, begin + share)
    var above = Int32(0)
    var at = Int32(0)
    for start in range(begin, end, WARP_SIZE):
        if start + lane < end:
            var key = keys.get(start + lane)
            above += Int32(bar.is_above(key))
            at += Int32(bar.is_at(key))
    above = warp.sum(above)
    at = warp.sum(at)
    barrier()
    if lane == 0:
        counts[unsafe_offset=own] = above
        counts[unsafe_offset=warps + own] = at
    barrier()
    above = 0
    at = 0
    if lane < own:
        above = counts[unsafe_offset=lane]
        at = counts[unsafe_offset=warps + lane]
    above = warp.sum(above)
    at = warp.sum(at)
    var target = choice.row_target(row).unsafe_offset(choice.num_first())
    var before = (UInt32(1) << UInt32(lane)) - 1
    for start in range(begin, end, WARP_SIZE):
        var i = start + lane
        var is_above = False
        var is_at = False
        var id = UInt32(0)
        if i < end:
            var key = keys.get(i)
            is_above = bar.is_above(key)
            is_at = bar.is_at(key)
            id = choice.row_block(row, choice.num_first() + i)
        var all_above = warp.vote[DType.uint32](is_above)
        var all_at = warp.vote[DType.uint32](is_at)
        var my_above = above + Int32(pop_count(all_above & before))
        var my_at = at + Int32(pop_count(all_at & before))
        if is_above or (is_at and my_at < bar.wanted):
            target[unsafe_offset=Int(my_above + min(my_at, bar.wanted))] = id
        above += Int32(pop_count(all_above))
        at += Int32(pop_count(all_at))


@always_inline
def choose_row[
    Rows: RankedRows, //, threads: Int
](
    choice: Rows,
    row: Int,
    num_blocks: Int,
    count: Int,
    most_held: Int,
    counts: Shared[Int32],
):
    """Writes the chosen blocks of one sequence and head, ascending.

    Parameters:
        Rows: The layout of scores and blocks.
        threads: The threads of the block, which all call it.

    Args:
        choice: The tensors.
        row: The sequence and head.
        num_blocks: Its blocks, the last one included.
        count: How many are chosen: all, or at least the reserved ones.
        most_held: The keys that shared memory has room for.
        counts: Shared memory of `DIGITS + 4` numbers.
    """
    var thread = Int(thread_idx.x)
    var first, last = choice.num_first(), choice.num_last()
    var target = choice.row_target(row)
    if count == num_blocks:
        for block in range(thread, num_blocks, threads):
            target[unsafe_offset=block] = choice.row_block(row, block)
        return
    var keys = Keys(
        choice.row_scores(row).unsafe_offset(first),
        length=num_blocks - first - last,
        most_held=most_held,
    )
    var wanted = count - first - last
    if wanted > 0:
        keys.hold[threads]()
    for block in range(thread, first, threads):
        target[unsafe_offset=block] = choice.row_block(row, block)
    for i in range(thread, last, threads):
        target[unsafe_offset=count - last + i] = choice.row_block(
            row, num_blocks - last + i
        )
    if wanted > 0:
        var bar = find_bar[threads](keys, wanted, counts)
        write_chosen[threads](choice, keys, bar, row, counts)


def choose_kernel[
    shape: ChoiceShape, threads: Int
](choice: BlockChoice[shape], most_held: Int32):
    """Chooses the blocks of one sequence under one head.

    Parameters:
        shape: What the choice is compiled for.
        threads: The threads of the block.

    Args:
        choice: The tensors.
        most_held: The keys that shared memory has room for.
    """
    await_kernels_before()
    var counts = stack_allocation[
        DIGITS + 4, Int32, address_space=AddressSpace.SHARED
    ]()
    var row, thread = Int(block_idx.x), Int(thread_idx.x)
    var seq, head = divmod(row, shape.num_kv_heads)
    var position = choice.position(seq)
    var num_blocks = 0
    var count = 0
    var length = 0
    if position >= 0:
        num_blocks = position // shape.block_size + 1
        count = choice.num_chosen(seq, num_blocks)
        length = choice.length(position, count)
    if head == 0 and thread == 0:
        choice.sparse_lengths[unsafe_offset=seq] = UInt32(length)
    choose_row[threads](choice, row, num_blocks, count, Int(most_held), counts)


def choose_gpu[
    shape: ChoiceShape
](choice: BlockChoice[shape], ctx: DeviceContext) raises:
    """Launches the kernel, a block of threads for each sequence and head.

    Parameters:
        shape: What the choice is compiled for.

    Args:
        choice: The tensors.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    if choice.num_rows() == 0:
        return

    def launch[threads: Int]() raises {imm}:
        comptime kernel = choose_kernel[shape, threads]
        comptime most_bytes = 4 * MOST_HELD
        var most_held = min(choice.width(), MOST_HELD)
        ctx.enqueue_function[kernel](
            choice,
            Int32(most_held),
            grid_dim=choice.num_rows(),
            block_dim=threads,
            shared_mem_bytes=4 * most_held,
            attributes=overlapping_launch(),
            func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(
                UInt32(most_bytes)
            ),
        )

    if choice.width() <= FEW_BLOCKS:
        launch[FEW_THREADS]()
    else:
        launch[MANY_THREADS]()
