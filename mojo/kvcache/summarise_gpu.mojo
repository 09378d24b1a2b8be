"""Makes the summaries of the blocks that a step completes, on a GPU.

One launch serves all layers. The host does not know how many blocks a step
completes: each thread block counts those of all sequences, a sequence a thread,
and takes its share of the tiles. A step that completes nothing reads three
numbers of each sequence, and ends.
"""

from max.gpu import WARP_SIZE, barrier, block_idx, grid_dim, thread_idx
from max.gpu.host import DeviceAttribute, DeviceContext
from max.gpu.primitives import warp
from std.builtin.device_passable import DevicePassable
from std.math import ceildiv
from std.memory import AddressSpace, stack_allocation

from .block_tables import BlockTables
from .overlap import await_kernels_before, overlapping_launch
from .shared_memory import Shared
from .team import Team
from .tile_place import BlockPlace

comptime THREADS = 256
"""The threads of a block, and the sequences that it looks at together."""

comptime WARPS = THREADS // WARP_SIZE
"""The warps of a block."""

comptime BLOCKS_PER_PROCESSOR = 4
"""The thread blocks that share a multiprocessor."""


trait GpuSummariser(DevicePassable, TrivialRegisterPassable):
    """What a compiled flow does with one block and head."""

    comptime lanes: Int
    """The lanes of a warp that share a block and head."""

    comptime kept: Int
    """The float32 numbers that they keep in shared memory."""

    def summarise_gpu(
        self,
        team: Team[Self.lanes],
        at: BlockPlace,
        is_there: Bool,
        kept: Shared[Float32],
    ):
        """Reads the block's keys and values, and writes its summaries.

        Args:
            team: The lanes that share the block.
            at: The block.
            is_there: Whether to write; all lanes of a warp compute.
            kept: Shared memory of `kept` numbers.
        """
        ...


def summarise_kernel[
    Flow: GpuSummariser, page_size: Int, block_size: Int, num_kv_heads: Int
](flow: Flow, tables: BlockTables[page_size, block_size], num_layers: Int32,):
    """Makes the grid's share of the summaries.

    Parameters:
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.
        num_kv_heads: The key-value heads held on this device.

    Args:
        flow: What to do with a block and head.
        tables: The step.
        num_layers: The layers in the pools.
    """
    comptime teams = WARP_SIZE // Flow.lanes
    await_kernels_before()
    # Up to which completed block of the round each sequence's go.
    var ends = stack_allocation[
        THREADS, UInt32, address_space=AddressSpace.SHARED
    ]()
    var warp_ends = stack_allocation[
        WARPS, UInt32, address_space=AddressSpace.SHARED
    ]()
    var kept = stack_allocation[
        max(1, WARPS * teams * Flow.kept),
        Float32,
        address_space=AddressSpace.SHARED,
        alignment=16,
    ]()
    var warp_index = Int(thread_idx.x) // WARP_SIZE
    var team_index = Int(thread_idx.x) % WARP_SIZE // Flow.lanes
    var own = kept.unsafe_offset((warp_index * teams + team_index) * Flow.kept)
    # A few tiles go to as many multiprocessors.
    var spread = warp_index * Int(grid_dim.x) + Int(block_idx.x)
    var first_tile = spread * teams
    var step = Int(grid_dim.x) * WARPS * teams
    for first_seq in range(0, Int(tables.batch.batch_size), THREADS):
        var num_blocks = _count(tables, first_seq, ends, warp_ends)
        var num_tiles = num_blocks * Int(num_layers) * num_kv_heads
        for first in range(first_tile, num_tiles, step):
            var tile = min(first + team_index, num_tiles - 1)
            var plane, head = divmod(UInt32(tile), UInt32(num_kv_heads))
            var rank, layer = divmod(plane, UInt32(num_layers))
            var seq = _sequence(ends, Int(rank))
            var start = UInt32(0)
            if seq > 0:
                start = ends[unsafe_offset=seq - 1]
            var index = tables.num_before(first_seq + seq) + Int(rank - start)
            flow.summarise_gpu(
                Team[Flow.lanes](),
                tables.place(
                    first_seq + seq, index, layer=Int(layer), head=Int(head)
                ),
                first + team_index < num_tiles,
                own,
            )
        barrier()


@always_inline
def _count(
    tables: BlockTables[...],
    first_seq: Int,
    ends: Shared[UInt32],
    warp_ends: Shared[UInt32],
) -> Int:
    """Sums up what the sequences from `first_seq` on complete; a thread each."""
    var thread = Int(thread_idx.x)
    var seq = first_seq + thread
    var end = UInt32(0)
    if seq < Int(tables.batch.batch_size):
        end = UInt32(tables.num_completed(seq))
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
    Flow: GpuSummariser, page_size: Int, block_size: Int, //, num_kv_heads: Int
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

    Args:
        flow: What to do with a block and head.
        tables: The step.
        num_layers: The layers in the pools.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime kernel = summarise_kernel[
        Flow, page_size, block_size, num_kv_heads
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
