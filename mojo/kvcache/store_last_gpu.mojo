"""Stores the last layer's rows of a decode step, and makes all summaries.

Few blocks get complete in such a step, so that its summaries are made in one
launch, and where the last layer's rows are stored, they cost no launch of their
own. Behind the thread blocks that store come some that count what is complete.
Of all layers but the last the keys are in their pages; of the last one the new
ones may be not yet, and are stored by who summarises them as well.

What wrote the tables was done before the store of the first layer let a kernel
start. So they are read while the kernel before this one runs.
"""

from max.gpu import WARP_SIZE, barrier, block_idx, grid_dim, thread_idx
from max.gpu.host import DeviceAttribute, DeviceContext
from std.memory import AddressSpace, stack_allocation

from .block_mover import BlockMover
from .block_rows import BlockRows, most_blocks
from .block_tables import BlockTables
from .completed_blocks import CompletedBlocks
from .gpu_summarisers import BlockSummariser
from .overlap import await_kernels_before, overlapping_launch
from .row_share import ROW_THREADS
from .shared_memory import Shared
from .summary_tiles import kept_by_tiles, summarise_tiles
from .team import Team

comptime BLOCKS_PER_PROCESSOR = 4
"""The thread blocks that make summaries, for each multiprocessor."""


def store_last_kernel[
    Mover: BlockMover, Flow: BlockSummariser, page_size: Int, block_size: Int
](
    mover: Mover,
    flow: Flow,
    tables: BlockTables[page_size, block_size],
    num_layers: Int32,
    num_row_blocks: Int32,
    total_tokens: Int32,
):
    """Stores a share of the rows, or makes a share of the summaries.

    Parameters:
        Mover: What stores rows.
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.

    Args:
        mover: Stores the rows of the last layer.
        flow: What to do with a block and head.
        tables: The step.
        num_layers: The layers in the pools.
        num_row_blocks: The thread blocks that store.
        total_tokens: The rows of all sequences.
    """
    var block = Int(block_idx.x)
    if block < Int(num_row_blocks) or num_layers == 1:
        await_kernels_before()
    if block < Int(num_row_blocks):
        mover.move_rows[ROW_THREADS, keys=True, values=True, is_decode=True](
            block, batch=tables.batch, total_tokens=Int(total_tokens)
        )
        return
    var completed = CompletedBlocks()
    # Nothing is held; that is what could be.
    var held = stack_allocation[
        1, Scalar[Mover.row_dtype], address_space=AddressSpace.SHARED
    ]()
    var kept = stack_allocation[
        kept_by_tiles[Flow](),
        Float32,
        address_space=AddressSpace.SHARED,
        alignment=16,
    ]()
    block -= Int(num_row_blocks)
    var grid = Int(grid_dim.x) - Int(num_row_blocks)
    var batch_size = Int(tables.batch.batch_size)
    for first_seq in range(0, batch_size, ROW_THREADS):
        var num_blocks = completed.count(tables, first_seq)
        if num_blocks == 0 and batch_size <= ROW_THREADS:
            return
        if first_seq == 0 and num_layers > 1:
            var num_tiles = num_blocks * Int(num_layers) * Mover.num_heads
            if num_tiles <= grid and block < num_tiles:
                _bring_near(mover, tables, completed, Int(num_layers), block)
            await_kernels_before()
        summarise_tiles[Mover.num_heads](
            flow,
            tables,
            completed,
            kept,
            first_seq=first_seq,
            num_blocks=num_blocks,
            num_layers=Int(num_layers) - 1,
            block=block,
            grid=grid,
        )
        # The other layers' tiles begin with the first thread blocks.
        for tile in range(grid - 1 - block, num_blocks * Mover.num_heads, grid):
            _summarise_last(
                mover,
                flow,
                tables,
                completed,
                held,
                kept,
                first_seq=first_seq,
                layer=Int(num_layers) - 1,
                tile=tile,
            )
        barrier()


@always_inline
def _bring_near[
    page_size: Int, block_size: Int, //
](
    mover: Some[BlockMover],
    tables: BlockTables[page_size, block_size],
    completed: CompletedBlocks,
    num_layers: Int,
    tile: Int,
):
    """Asks for the keys of one tile of the first round, of any layer."""
    var plane, head = divmod(UInt32(tile), UInt32(type_of(mover).num_heads))
    var rank, layer = divmod(plane, UInt32(num_layers))
    mover.bring_near[block_size, ROW_THREADS](
        completed.place(tables, 0, Int(rank), layer=Int(layer), head=Int(head)),
        layers_before=num_layers - 1 - Int(layer),
    )


@always_inline
def _summarise_last[
    Mover: BlockMover,
    Flow: BlockSummariser,
    page_size: Int,
    block_size: Int,
    //,
](
    mover: Mover,
    flow: Flow,
    tables: BlockTables[page_size, block_size],
    completed: CompletedBlocks,
    held: Shared[Scalar[Mover.row_dtype]],
    kept: Shared[Float32],
    *,
    first_seq: Int,
    layer: Int,
    tile: Int,
):
    """Makes the summaries of one block and head of the last layer."""
    var rank, head = divmod(UInt32(tile), UInt32(Mover.num_heads))
    var seq, blocks_on = completed.sequence_and_rest(Int(rank))
    var rows = BlockRows(tables, first_seq + seq, blocks_on=blocks_on)
    comptime for kv in range(1 + Int(Flow.reads_values)):
        mover.move_block[
            1, block_size, ROW_THREADS, kv=kv, stores=True, holds=False
        ](rows, Int(head), held)
    barrier()
    var team = Int(thread_idx.x) // Flow.wide_lanes
    if Int(thread_idx.x) // WARP_SIZE * WARP_SIZE < Flow.wide_lanes:
        flow.summarise_wide(
            Team[Flow.wide_lanes](),
            completed.place(
                tables, first_seq, Int(rank), layer=layer, head=Int(head)
            ),
            team == 0,
            kept.unsafe_offset(team * Flow.kept),
        )


def store_last_gpu[
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
    """Launches the last layer's store and the summaries of all layers.

    Parameters:
        page_size: The tokens per page.
        block_size: The tokens per block.

    Args:
        mover: Stores the rows of the last layer.
        flow: What to do with a block and head.
        tables: The step.
        total_tokens: The rows of all sequences, no more than those are.
        num_layers: The layers in the pools.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime Mover = type_of(mover)
    comptime kernel = store_last_kernel[
        Mover, type_of(flow), page_size, block_size
    ]
    if total_tokens == 0 or tables.batch.batch_size == 0:
        return
    var batch_size = Int(tables.batch.batch_size)
    var num_row_blocks = Mover.num_blocks[ROW_THREADS, keys=True, values=True](
        total_tokens
    )
    var most_tiles = most_blocks[block_size](total_tokens, batch_size)
    most_tiles *= num_layers * Mover.num_heads
    var processors = Int(
        ctx.get_attribute(DeviceAttribute.MULTIPROCESSOR_COUNT)
    )
    ctx.enqueue_function[kernel](
        mover,
        flow,
        tables,
        Int32(num_layers),
        Int32(num_row_blocks),
        Int32(total_tokens),
        grid_dim=num_row_blocks
        + min(processors * BLOCKS_PER_PROCESSOR, most_tiles),
        block_dim=ROW_THREADS,
        attributes=overlapping_launch(),
    )
