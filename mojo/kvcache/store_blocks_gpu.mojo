"""Stores rows block by block, and makes each block's summaries, on a GPU.

A thread block has the new rows of one block and of a few heads. Keys of a whole
block are held in shared memory, and summarised from there: a pass of its own
over the keys would cost a quarter of what storing costs.
"""

from max.gpu import WARP_SIZE, barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.builtin.device_passable import DevicePassable
from std.math import ceildiv
from std.memory import AddressSpace, stack_allocation
from std.sys import size_of

from .block_rows import BlockRows, most_blocks
from .block_tables import BlockTables
from .gpu_summarisers import BlockSummariser
from .overlap import await_kernels_before, overlapping_launch
from .shared_memory import Shared
from .team import Team
from .tile_place import BlockPlace
from .vectors import THREADS

comptime HELD_BYTES = 16 * 1024
"""The most bytes of keys that a thread block holds in shared memory."""


trait BlockMover(DevicePassable, TrivialRegisterPassable):
    """Stores the rows of some heads, with all threads of a block."""

    comptime row_dtype: DType
    """The element type of the pages."""

    comptime num_heads: Int
    """The key-value heads."""

    comptime head_dim: Int
    """The elements per head."""

    def hold[
        heads: Int, block_size: Int
    ](self, rows: BlockRows, head: Int, held: Shared[Scalar[Self.row_dtype]]):
        """Reads keys of the block that were stored before.

        Parameters:
            heads: How many heads.
            block_size: The tokens per block.

        Args:
            rows: The rows that follow them.
            head: The first head.
            held: Receives the keys, `[heads, block_size, head_dim]`.
        """
        ...

    def move[
        heads: Int, block_size: Int, holds: Bool
    ](self, rows: BlockRows, head: Int, held: Shared[Scalar[Self.row_dtype]]):
        """Stores rows; every thread of the block calls it.

        Parameters:
            heads: How many heads.
            block_size: The tokens per block.
            holds: Whether keys are held in shared memory as well.

        Args:
            rows: The rows, at least one; all in one page.
            head: The first head.
            held: The keys, `[heads, block_size, head_dim]`.
        """
        ...


def heads_together[Mover: BlockMover](block_size: Int) -> Int:
    """Returns how many heads a thread block has.

    Parameters:
        Mover: What stores rows.

    Args:
        block_size: The tokens per block.

    Returns:
        A divisor of the heads.
    """
    var head_bytes = block_size * Mover.head_dim * size_of[Mover.row_dtype]()
    var heads = 1
    while Mover.num_heads % (2 * heads) == 0 and 2 * heads * head_bytes <= (
        HELD_BYTES
    ):
        heads *= 2
    return heads


def store_blocks_kernel[
    Mover: BlockMover, Flow: BlockSummariser, page_size: Int, block_size: Int
](
    mover: Mover,
    flow: Flow,
    tables: BlockTables[page_size, block_size],
    layer: Int32,
):
    """Stores a block's rows of some heads, and makes its summaries.

    Parameters:
        Mover: What stores rows.
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.

    Args:
        mover: Stores the rows.
        flow: What to do with a block and head.
        tables: The step.
        layer: The layer.
    """
    comptime heads = heads_together[Mover](block_size)
    comptime length = block_size * Mover.head_dim
    comptime can_hold = not Flow.reads_values and (
        heads * length * size_of[Mover.row_dtype]() <= HELD_BYTES
    )
    comptime teams = THREADS // Flow.lanes
    comptime wide_teams = THREADS // Flow.Held.held_lanes
    await_kernels_before()
    var held = stack_allocation[
        heads * length if can_hold else 1,
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
    var number, group = divmod(
        UInt32(block_idx.x), UInt32(Mover.num_heads // heads)
    )
    var rows = BlockRows(tables, Int(number))
    if rows.num_rows == 0:
        return
    var head = Int(group) * heads
    var completes = rows.completes[block_size]()
    if can_hold and completes:
        mover.hold[heads, block_size](rows, head, held)
        mover.move[heads, block_size, True](rows, head, held)
    else:
        mover.move[heads, block_size, False](rows, head, held)
    if not completes:
        return
    var place = tables.place(rows.seq, rows.index, layer=Int(layer), head=head)
    barrier()
    var thread = Int(thread_idx.x)
    var warp_begin = thread // WARP_SIZE * WARP_SIZE
    comptime if can_hold:
        comptime Held = Flow.Held
        var team = thread // Held.held_lanes
        for first in range(warp_begin // Held.held_lanes, heads, wide_teams):
            var own = first + team - warp_begin // Held.held_lanes
            var kept_keys = held.unsafe_offset(min(own, heads - 1) * length)
            flow.held(
                place.of_head(head + min(own, heads - 1)),
                kept_keys.unsafe_address_space_cast[
                    AddressSpace.GENERIC
                ]().unsafe_bitcast[Scalar[Flow.token_dtype]](),
            ).summarise_held(
                Team[Held.held_lanes](),
                BlockPlace(page=0, block=0, layer=0, head=0),
                own < heads,
                kept.unsafe_offset(team * Held.kept),
            )
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
    comptime heads = heads_together[Mover](block_size)
    comptime kernel = store_blocks_kernel[
        Mover, type_of(flow), page_size, block_size
    ]
    var batch_size = Int(tables.batch.batch_size)
    if total_tokens == 0 or batch_size == 0:
        return
    ctx.enqueue_function[kernel](
        mover,
        flow,
        tables,
        Int32(layer),
        grid_dim=most_blocks[block_size](total_tokens, batch_size)
        * (Mover.num_heads // heads),
        block_dim=THREADS,
        attributes=overlapping_launch(),
    )
