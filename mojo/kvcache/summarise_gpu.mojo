"""Makes the summaries of the blocks that a step completes, on a GPU.

One launch serves all layers. A step that completes nothing reads three numbers
of each sequence, and ends.
"""

from max.gpu import barrier, block_idx, grid_dim
from max.gpu.host import DeviceAttribute, DeviceContext
from std.math import ceildiv
from std.memory import AddressSpace, stack_allocation

from .block_tables import BlockTables
from .completed_blocks import CompletedBlocks
from .gpu_summarisers import WideSummariser
from .overlap import await_kernels_before, overlapping_launch
from .row_share import ROW_THREADS
from .summary_tiles import kept_by_tiles, summarise_tiles

comptime BLOCKS_PER_PROCESSOR = 4
"""The thread blocks that share a multiprocessor."""


def summarise_kernel[
    Flow: WideSummariser,
    page_size: Int,
    block_size: Int,
    num_kv_heads: Int,
    follows_store: Bool,
](flow: Flow, tables: BlockTables[page_size, block_size], num_layers: Int32,):
    """Makes the grid's share of the summaries.

    Parameters:
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.
        num_kv_heads: The key-value heads held on this device.
        follows_store: Whether the kernel before is a store of the same step. What
            wrote the tables is done when that one lets this one start, so they
            are read while it stores.

    Args:
        flow: What to do with a block and head.
        tables: The step.
        num_layers: The layers in the pools.
    """
    comptime if not follows_store:
        await_kernels_before()
    var completed = CompletedBlocks()
    var kept = stack_allocation[
        kept_by_tiles[Flow](),
        Float32,
        address_space=AddressSpace.SHARED,
        alignment=16,
    ]()
    var grid = Int(grid_dim.x)
    var batch_size = Int(tables.batch.batch_size)
    for first_seq in range(0, batch_size, ROW_THREADS):
        var num_blocks = completed.count(tables, first_seq)

        comptime if follows_store:
            # That the first block waits is enough for the kernel after.
            var num_tiles = num_blocks * Int(num_layers) * num_kv_heads
            var is_idle = Int(block_idx.x) >= max(1, num_tiles)
            if is_idle and batch_size <= ROW_THREADS:
                return
            if first_seq == 0:
                await_kernels_before()

        summarise_tiles[num_kv_heads](
            flow,
            tables,
            completed,
            kept,
            first_seq=first_seq,
            num_blocks=num_blocks,
            num_layers=Int(num_layers),
            block=Int(block_idx.x),
            grid=grid,
        )
        barrier()


def summarise_gpu[
    Flow: WideSummariser,
    page_size: Int,
    block_size: Int,
    //,
    num_kv_heads: Int,
    *,
    follows_store: Bool = False,
](
    flow: Flow,
    tables: BlockTables[page_size, block_size],
    *,
    num_layers: Int,
    ctx: DeviceContext,
) raises:
    """Launches the summaries of all layers, in one kernel.

    Parameters:
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.
        num_kv_heads: The key-value heads held on this device.
        follows_store: Whether the kernel launched just before is a store of
            the same step, by `store_gpu` or one like it.

    Args:
        flow: What to do with a block and head.
        tables: The step.
        num_layers: The layers in the pools.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime kernel = summarise_kernel[
        Flow, page_size, block_size, num_kv_heads, follows_store
    ]
    comptime teams = ROW_THREADS // Flow.lanes
    if tables.batch.batch_size == 0:
        return
    var processors = ctx.get_attribute(DeviceAttribute.MULTIPROCESSOR_COUNT)
    var most_tiles = tables.width() * Int(tables.batch.batch_size)
    most_tiles *= num_layers * num_kv_heads
    ctx.enqueue_function[kernel](
        flow,
        tables,
        Int32(num_layers),
        grid_dim=min(
            Int(processors) * BLOCKS_PER_PROCESSOR,
            max(1, ceildiv(most_tiles, teams)),
        ),
        block_dim=ROW_THREADS,
        attributes=overlapping_launch(),
    )
