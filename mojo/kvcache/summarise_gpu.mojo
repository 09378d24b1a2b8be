"""Makes the summaries of the blocks that a step completes, on a GPU.

One launch serves all layers. The host does not know how many blocks a step
completes: each thread block counts those of all sequences, a sequence a thread,
and takes its share of the tiles. A step that completes nothing reads three
numbers of each sequence, and ends. Of a few tiles each has more lanes.
"""

from max.gpu import WARP_SIZE, barrier, block_idx, grid_dim, thread_idx
from max.gpu.host import DeviceAttribute, DeviceContext
from max.gpu.primitives import warp
from std.math import ceildiv
from std.memory import AddressSpace, stack_allocation

from .block_tables import BlockTables
from .gpu_summarisers import WideSummariser
from .overlap import await_kernels_before, overlapping_launch
from .shared_memory import Shared
from .team import Team
from .tile_place import BlockPlace

comptime THREADS = 128
"""The threads of a block, and the sequences that it looks at together."""

comptime WARPS = THREADS // WARP_SIZE
"""The warps of a block."""

comptime BLOCKS_PER_PROCESSOR = 4
"""The thread blocks that share a multiprocessor."""

comptime FEW_ROUNDS = 2
"""The rounds up to which many lanes share a tile."""


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
    comptime teams = WARP_SIZE // Flow.lanes
    comptime wide_teams = THREADS // Flow.wide_lanes
    comptime if not follows_store:
        await_kernels_before()
    # Up to which completed block of the round each sequence's go; the number of
    # its first one, and its page.
    var ends = stack_allocation[
        THREADS, UInt32, address_space=AddressSpace.SHARED
    ]()
    var firsts = stack_allocation[
        2 * THREADS, UInt32, address_space=AddressSpace.SHARED
    ]()
    var kept = stack_allocation[
        max(1, WARPS * teams * Flow.kept, wide_teams * Flow.kept),
        Float32,
        address_space=AddressSpace.SHARED,
        alignment=16,
    ]()
    var thread = Int(thread_idx.x)
    var grid = Int(grid_dim.x)
    for first_seq in range(0, Int(tables.batch.batch_size), THREADS):
        var num_blocks = _count(tables, first_seq, ends, firsts)
        var num_tiles = num_blocks * Int(num_layers) * num_kv_heads

        comptime if follows_store:
            # That the first block waits is enough for the kernel after.
            var is_idle = Int(block_idx.x) >= max(1, num_tiles)
            if is_idle and Int(tables.batch.batch_size) <= THREADS:
                return
            if first_seq == 0:
                await_kernels_before()

        @always_inline
        def place(tile: Int) {imm} -> BlockPlace:
            var plane, head = divmod(UInt32(tile), UInt32(num_kv_heads))
            var rank, layer = divmod(plane, UInt32(num_layers))
            return _place(
                tables,
                first_seq,
                Int(rank),
                ends,
                firsts,
                layer=Int(layer),
                head=Int(head),
            )

        if num_tiles <= FEW_ROUNDS * grid * wide_teams:
            var team = thread // Flow.wide_lanes
            var warp_team = thread // WARP_SIZE * WARP_SIZE // Flow.wide_lanes
            for first in range(Int(block_idx.x), num_tiles, grid * wide_teams):
                if first + warp_team * grid >= num_tiles:
                    break
                var tile = first + team * grid
                flow.summarise_wide(
                    Team[Flow.wide_lanes](),
                    place(min(tile, num_tiles - 1)),
                    tile < num_tiles,
                    kept.unsafe_offset(team * Flow.kept),
                )
        else:
            var warp_index = thread // WARP_SIZE
            var team = thread % WARP_SIZE // Flow.lanes
            # A few tiles go to as many multiprocessors.
            var first_tile = (warp_index * grid + Int(block_idx.x)) * teams
            for first in range(first_tile, num_tiles, grid * WARPS * teams):
                flow.summarise_gpu(
                    Team[Flow.lanes](),
                    place(min(first + team, num_tiles - 1)),
                    first + team < num_tiles,
                    kept.unsafe_offset((warp_index * teams + team) * Flow.kept),
                )
        barrier()


@always_inline
def _count(
    tables: BlockTables[...],
    first_seq: Int,
    ends: Shared[UInt32],
    firsts: Shared[UInt32],
) -> Int:
    """Sums up what the sequences from `first_seq` on complete; a thread each.

    Where a sequence's first block is is looked up meanwhile.
    """
    var warp_ends = stack_allocation[
        WARPS, UInt32, address_space=AddressSpace.SHARED
    ]()
    var thread = Int(thread_idx.x)
    var seq = first_seq + thread
    var end = UInt32(0)
    if seq < Int(tables.batch.batch_size):
        end = UInt32(tables.num_completed(seq))
        if end > 0:
            var index = tables.num_before(seq)
            var at = tables.place(seq, index, layer=0, head=0)
            firsts[unsafe_offset=2 * thread] = UInt32(index)
            firsts[unsafe_offset=2 * thread + 1] = UInt32(at.page)
    end = warp.prefix_sum(end)
    if thread % WARP_SIZE == WARP_SIZE - 1:
        warp_ends[unsafe_offset=thread // WARP_SIZE] = end
    barrier()
    var total = UInt32(0)
    comptime for i in range(WARPS):
        if i < thread // WARP_SIZE:
            end += warp_ends[unsafe_offset=i]
        total += warp_ends[unsafe_offset=i]
    ends[unsafe_offset=thread] = end
    barrier()
    return Int(total)


@always_inline
def _place(
    tables: BlockTables[...],
    first_seq: Int,
    rank: Int,
    ends: Shared[UInt32],
    firsts: Shared[UInt32],
    *,
    layer: Int,
    head: Int,
) -> BlockPlace:
    """Finds one of the completed blocks of a round."""
    var seq = _sequence(ends, rank)
    var start = 0
    if seq > 0:
        start = Int(ends[unsafe_offset=seq - 1])
    var index = Int(firsts[unsafe_offset=2 * seq]) + rank - start
    if rank > start:
        return tables.place(first_seq + seq, index, layer=layer, head=head)
    return BlockPlace(
        page=Int(firsts[unsafe_offset=2 * seq + 1]),
        block=index % type_of(tables).blocks_per_page,
        layer=layer,
        head=head,
    )


@always_inline
def _sequence(ends: Shared[UInt32], rank: Int) -> Int:
    """Returns the first sequence whose blocks end behind one of them."""
    var low = 0
    var length = THREADS
    while length > 1:
        length //= 2
        if Int(ends[unsafe_offset=low + length - 1]) <= rank:
            low += length
    return low


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
    comptime teams = THREADS // Flow.lanes
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
        block_dim=THREADS,
        attributes=overlapping_launch(),
    )
