"""Stores a decode step's last layer, and beside that makes summaries, on a GPU.

Some thread blocks of the launch have rows, and the others the tiles of completed
blocks of all layers. These find out what the step completes, and have it brought
near, while the kernel before still runs; then they read what other launches have
stored, and wait for none of the rows that are stored beside them. Who makes the
last layer's own summaries stores the keys of its block first, so that there are
two to store the same.
"""

from max.gpu import WARP_SIZE, barrier, block_idx, thread_idx
from max.gpu.host import DeviceAttribute, DeviceContext
from std.memory import AddressSpace, stack_allocation

from .block_mover import BlockMover
from .block_rows import BlockRows
from .block_tables import BlockTables
from .completed_blocks import CompletedBlocks
from .few_completed import MOST_SEQUENCES, FewCompleted
from .gpu_summarisers import BlockSummariser
from .overlap import await_kernels_before, overlapping_launch
from .row_share import ROW_THREADS
from .shared_memory import Shared
from .summary_tiles import FEW_ROUNDS, kept_by_tiles, summarise_tiles
from .team import Team
from .tile_place import BlockPlace

comptime BLOCKS_PER_PROCESSOR = 4
"""The thread blocks that make summaries, for each multiprocessor."""


def store_beside_kernel[
    Mover: BlockMover,
    Flow: BlockSummariser,
    page_size: Int,
    block_size: Int,
](
    mover: Mover,
    flow: Flow,
    tables: BlockTables[page_size, block_size],
    num_layers: Int32,
    num_summarising: Int32,
    total_tokens: Int32,
):
    """Moves a share of the rows, or makes a share of the summaries.

    Parameters:
        Mover: What stores rows.
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.

    Args:
        mover: Stores the rows.
        flow: What to do with a block and head.
        tables: The step.
        num_layers: The layers in the pools; the last one is stored.
        num_summarising: The thread blocks that make summaries; they come first.
        total_tokens: The rows of all sequences.
    """
    var block = Int(block_idx.x)
    var grid = Int(num_summarising)
    if block >= grid:
        await_kernels_before()
        mover.store_rows(
            block - grid, batch=tables.batch, total_tokens=Int(total_tokens)
        )
        return
    if num_layers == 1:
        # Else a store of the same step has waited for who wrote the tables.
        await_kernels_before()
    var kept = stack_allocation[
        kept_by_tiles[Flow](),
        Float32,
        address_space=AddressSpace.SHARED,
        alignment=16,
    ]()
    var last = Int(num_layers) - 1
    if Int(tables.batch.batch_size) <= MOST_SEQUENCES:
        var few = FewCompleted(tables)
        var num_planes = few.total * Int(num_layers)
        if block >= num_planes * Mover.num_heads:
            return
        if num_planes * Mover.num_heads <= FEW_ROUNDS * grid:
            for tile in range(block, num_planes * Mover.num_heads, grid):
                var plane, head = divmod(UInt32(tile), UInt32(Mover.num_heads))
                var layer, rank = divmod(plane, UInt32(few.total))
                var found = few.find(tables, Int(rank))
                var at = found.place(tables, layer=Int(layer), head=Int(head))
                if Int(layer) == last:
                    var rows = BlockRows(
                        tables, seq=found.seq, index=found.index
                    )
                    _store[block_size, Flow.reads_values](
                        mover, rows, Int(head)
                    )
                else:
                    await_kernels_before()
                _summarise(flow, at, kept)
            return
    var completed = CompletedBlocks()
    # Those that have none of the other tiles begin with the last layer's.
    var own_block = grid - 1 - block
    for first_seq in range(0, Int(tables.batch.batch_size), ROW_THREADS):
        var num_blocks = completed.count(tables, first_seq)
        if first_seq == 0:
            await_kernels_before()
        summarise_tiles[Mover.num_heads](
            flow,
            tables,
            completed,
            kept,
            first_seq=first_seq,
            num_blocks=num_blocks,
            num_layers=last,
            block=block,
            grid=grid,
        )
        for tile in range(own_block, num_blocks * Mover.num_heads, grid):
            var rank, head = divmod(UInt32(tile), UInt32(Mover.num_heads))
            var seq, index = completed.sequence_and_index(Int(rank))
            _store[block_size, Flow.reads_values](
                mover,
                BlockRows(tables, seq=first_seq + seq, index=index),
                Int(head),
            )
            var at = completed.place(
                tables, first_seq, Int(rank), layer=last, head=Int(head)
            )
            _summarise(flow, at, kept)
        barrier()


@always_inline
def _store[
    Mover: BlockMover, //, block_size: Int, reads_values: Bool
](mover: Mover, rows: BlockRows, head: Int):
    """Waits, and stores new rows of a block and head, for all threads to read."""
    var offset = mover.row_offset(rows)
    await_kernels_before()
    var held = stack_allocation[
        1, Scalar[Mover.row_dtype], address_space=AddressSpace.SHARED
    ]()
    comptime for kv in range(1 + Int(reads_values)):
        mover.move_block[1, block_size, ROW_THREADS, kv=kv, holds=False](
            rows, offset, head, held
        )
    barrier()


@always_inline
def _summarise[
    Flow: BlockSummariser, //
](flow: Flow, at: BlockPlace, kept: Shared[Float32]):
    """Makes the summaries of a tile with as many threads as can be."""
    comptime lanes = Flow.wide_lanes
    var thread = Int(thread_idx.x)
    if thread < max(lanes, WARP_SIZE):
        flow.summarise_wide(
            Team[lanes](),
            at,
            thread < lanes,
            kept.unsafe_offset(thread // lanes * Flow.kept),
        )


def store_beside_gpu[
    page_size: Int, block_size: Int, //
](
    mover: Some[BlockMover],
    flow: Some[BlockSummariser],
    tables: BlockTables[page_size, block_size],
    *,
    total_tokens: Int,
    num_layers: Int,
    ctx: DeviceContext,
) raises:
    """Launches the store of the last layer, and all summaries, in one kernel.

    Parameters:
        page_size: The tokens per page.
        block_size: The tokens per block.

    Args:
        mover: Stores the rows.
        flow: What to do with a block and head.
        tables: The step; it has no more rows than sequences.
        total_tokens: The rows of all sequences.
        num_layers: The layers in the pools; all but the last one are stored.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime Mover = type_of(mover)
    comptime kernel = store_beside_kernel[
        Mover, type_of(flow), page_size, block_size
    ]
    if total_tokens == 0:
        return
    var processors = ctx.get_attribute(DeviceAttribute.MULTIPROCESSOR_COUNT)
    var num_summarising = min(
        Int(processors) * BLOCKS_PER_PROCESSOR,
        total_tokens * Mover.num_heads * num_layers,
    )
    ctx.enqueue_function[kernel](
        mover,
        flow,
        tables,
        Int32(num_layers),
        Int32(num_summarising),
        Int32(total_tokens),
        grid_dim=num_summarising + Mover.num_row_blocks(total_tokens),
        block_dim=ROW_THREADS,
        attributes=overlapping_launch(),
    )
