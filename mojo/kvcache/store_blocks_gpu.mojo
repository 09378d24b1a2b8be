"""Stores rows block by block, and makes each block's summaries, on a GPU.

A thread block has the new keys of one block and of a few heads. Those of a whole
block are held in shared memory, and summarised from there: a pass of its own
over the keys would cost a quarter of what storing costs. Behind these come thread
blocks that move what else is in the rows, while others summarise.
"""

from max.gpu import (
    MAX_THREADS_PER_BLOCK_METADATA,
    WARP_SIZE,
    barrier,
    block_idx,
    thread_idx,
)
from max.gpu.host import DeviceAttribute, DeviceContext
from std.memory import AddressSpace, stack_allocation
from std.utils.static_tuple import StaticTuple

from .block_mover import BlockMover
from .block_rows import BlockRows, most_blocks
from .block_tables import BlockTables
from .gpu_summarisers import BlockSummariser
from .held_summaries import can_hold, heads_together, summarise_held
from .overlap import await_kernels_before, overlapping_launch
from .team import Team

comptime FEW_THREADS = 128
"""The threads of a block where many follow one another."""

comptime MANY_THREADS = 512
"""The threads of a block where keys are stored by one round of blocks: each
thread loads once, and the summaries follow at once."""

comptime SUMMARISING = 256
"""The most threads of a block that make summaries: each team of them keeps
numbers in shared memory."""


@__llvm_metadata(
    MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](Int32(threads))
)
def store_blocks_kernel[
    Mover: BlockMover,
    Flow: BlockSummariser,
    page_size: Int,
    block_size: Int,
    threads: Int,
](
    mover: Mover,
    flow: Flow,
    tables: BlockTables[page_size, block_size],
    layer: Int32,
    num_key_blocks: Int32,
    total_tokens: Int32,
):
    """Stores a block's keys of some heads and makes its summaries, or moves rows.

    Parameters:
        Mover: What stores rows.
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.
        threads: The threads of a thread block.

    Args:
        mover: Stores the rows.
        flow: What to do with a block and head.
        tables: The step.
        layer: The layer.
        num_key_blocks: The thread blocks that have keys; the others have what
            else is in the rows.
        total_tokens: The rows of all sequences.
    """
    comptime heads = heads_together[Mover](block_size)
    comptime length = block_size * Mover.head_dim
    comptime holds = can_hold[Mover, Flow](block_size)
    comptime most = min(threads, SUMMARISING)
    comptime teams = most // Flow.lanes
    comptime wide_teams = most // Flow.Held.held_lanes
    if layer == 0:
        # Later, a store of the same step has waited for who wrote the tables.
        await_kernels_before()
    var held = stack_allocation[
        heads * length if holds else 1,
        Scalar[Mover.row_dtype],
        address_space=AddressSpace.SHARED,
        alignment=16,
    ]()
    var kept = stack_allocation[
        max(1, teams * Flow.kept, wide_teams * Flow.Held.kept),
        Float32,
        address_space=AddressSpace.SHARED,
        alignment=16,
    ]()
    var block = Int(block_idx.x)
    if block >= Int(num_key_blocks):
        mover.move_rows[threads, values=holds](
            block - Int(num_key_blocks),
            batch=tables.batch,
            total_tokens=Int(total_tokens),
        )
        return
    var number, group = divmod(UInt32(block), UInt32(Mover.num_heads // heads))
    var rows = BlockRows(tables, Int(number))
    if rows.num_rows == 0:
        # Somebody must: else the next kernel would not be behind the one before.
        await_kernels_before()
        return
    var head = Int(group) * heads
    var completes = rows.completes[block_size]()
    var place = tables.place(rows.seq, rows.index, layer=Int(layer), head=head)
    var offset = mover.row_offset(rows)
    if holds and completes:
        mover.hold_cached[heads, block_size, threads](rows, head, held)
        await_kernels_before()
        mover.move_block[heads, block_size, threads, kv=0, holds=True](
            rows, offset, head, held
        )
    else:
        await_kernels_before()
        mover.move_block[heads, block_size, threads, kv=0, holds=False](
            rows, offset, head, held
        )
    comptime if not holds:
        mover.move_block[heads, block_size, threads, kv=1, holds=False](
            rows, offset, head, held
        )
    if not completes:
        return
    barrier()
    var thread = Int(thread_idx.x)
    if thread >= most:
        return
    var warp_begin = thread // WARP_SIZE * WARP_SIZE
    comptime if holds:
        summarise_held[
            Mover.row_dtype, heads, block_size, Mover.head_dim, most
        ](flow, held, kept, place)
    else:
        var team = thread // Flow.lanes
        for first in range(warp_begin // Flow.lanes, heads, teams):
            var own = first + team - warp_begin // Flow.lanes
            flow.summarise_gpu(
                Team[Flow.lanes](),
                place.of_head(head + min(own, heads - 1)),
                own < heads,
                kept.unsafe_offset(team * Flow.kept),
            )


def store_blocks_gpu[
    page_size: Int, block_size: Int, //
](
    mover: Some[BlockMover],
    flow: Some[BlockSummariser],
    tables: BlockTables[page_size, block_size],
    *,
    total_tokens: Int,
    layer: Int,
    ctx: DeviceContext,
) raises:
    """Launches the store and the summaries of one layer, in one kernel.

    Parameters:
        page_size: The tokens per page.
        block_size: The tokens per block.

    Args:
        mover: Stores the rows.
        flow: What to do with a block and head.
        tables: The step.
        total_tokens: The rows of all sequences.
        layer: The layer.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime Mover = type_of(mover)
    comptime Flow = type_of(flow)
    comptime groups = Mover.num_heads // heads_together[Mover](block_size)
    var batch_size = Int(tables.batch.batch_size)
    if total_tokens == 0 or batch_size == 0:
        return
    var num_key_blocks = most_blocks[block_size](total_tokens, batch_size)
    num_key_blocks *= groups

    def launch[threads: Int]() raises {imm}:
        comptime kernel = store_blocks_kernel[
            Mover, Flow, page_size, block_size, threads
        ]
        comptime holds = can_hold[Mover, Flow](block_size)
        var num_blocks = num_key_blocks
        num_blocks += Mover.num_blocks[threads, values=holds](total_tokens)
        ctx.enqueue_function[kernel](
            mover,
            flow,
            tables,
            Int32(layer),
            Int32(num_key_blocks),
            Int32(total_tokens),
            grid_dim=num_blocks,
            block_dim=threads,
            attributes=overlapping_launch(),
        )

    comptime if can_hold[Mover, Flow](block_size):
        var processors = ctx.get_attribute(DeviceAttribute.MULTIPROCESSOR_COUNT)
        if num_key_blocks <= Int(processors) * Mover.large_blocks:
            return launch[MANY_THREADS]()
    launch[FEW_THREADS]()
