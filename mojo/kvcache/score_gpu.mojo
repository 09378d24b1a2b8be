"""Computes the kernels of a flow's indexer, on a GPU."""

from max.gpu import WARP_SIZE, block_idx, grid_dim, thread_idx
from max.gpu.host import DeviceAttribute, DeviceContext
from std.builtin.device_passable import DevicePassable
from std.math import ceildiv
from std.memory import AddressSpace, stack_allocation

from .block_source import BlockSource
from .overlap import await_kernels_before, overlapping_launch
from .request_place import RequestPlace
from .shared_memory import Shared
from .team import Team

comptime THREADS = 128
"""The threads of a block."""

comptime WARPS = THREADS // WARP_SIZE
"""The warps of a block."""

comptime BLOCKS_PER_PROCESSOR = 6
"""The thread blocks that there are for a multiprocessor, at most about: as many
as run at once, so that none waits to begin."""

comptime FEWEST_SHARES = 5
"""The thread blocks that a long sequence's head has at least: where there are
very many, the last ones should be short."""


trait GpuScorer(DevicePassable, TrivialRegisterPassable):
    """One kernel of a compiled flow, for one sequence and key-value head."""

    comptime lanes: Int
    """The lanes of a warp that share a block."""

    comptime kept: Int
    """The float32 numbers that they keep in shared memory."""

    def score_gpu(
        self,
        team: Team[Self.lanes],
        at: RequestPlace,
        *,
        first: Int,
        index: Int,
        step: Int,
        kept: Shared[Float32],
    ):
        """Computes the tiles of some of the sequence's scored blocks.

        All lanes of a warp go through as many rounds.

        Args:
            team: The lanes that share a block.
            at: The sequence and head.
            first: The block of the warp's first team, in the first round.
            index: Which team of the warp it is.
            step: The blocks between two rounds.
            kept: Shared memory of `kept` numbers.
        """
        ...


def score_kernel[
    Flow: GpuScorer, Tables: BlockSource
](flow: Flow, tables: Tables, layer: Int32):
    """Computes the grid's share of a kernel of the flow.

    Parameters:
        Flow: The compiled kernel.
        Tables: What finds the sequences' blocks.

    Args:
        flow: What to do for a sequence and head.
        tables: The step.
        layer: The layer.
    """
    comptime teams = WARP_SIZE // Flow.lanes
    await_kernels_before()
    var seq = Int(block_idx.z)
    var num_blocks = tables.num_scored(seq)
    var warp_index = Int(thread_idx.x) // WARP_SIZE
    var team_index = Int(thread_idx.x) % WARP_SIZE // Flow.lanes
    var first = (Int(block_idx.x) * WARPS + warp_index) * teams
    if first >= num_blocks:
        return
    var kept = stack_allocation[
        max(1, WARPS * teams * Flow.kept),
        Float32,
        address_space=AddressSpace.SHARED,
        alignment=16,
    ]()
    flow.score_gpu(
        Team[Flow.lanes](),
        RequestPlace(
            seq=seq,
            head=Int(block_idx.y),
            layer=Int(layer),
            row=tables.query_row(seq),
            num_blocks=num_blocks,
        ),
        first=first,
        index=team_index,
        step=Int(grid_dim.x) * WARPS * teams,
        kept=kept.unsafe_offset((warp_index * teams + team_index) * Flow.kept),
    )


def score_gpu[
    Flow: GpuScorer, Tables: BlockSource, //
](
    flow: Flow,
    tables: Tables,
    *,
    num_kv_heads: Int,
    layer: Int,
    is_per_block: Bool,
    ctx: DeviceContext,
) raises:
    """Launches a kernel of the flow for the sequences of one new token.

    Parameters:
        Flow: The compiled kernel.
        Tables: What finds the sequences' blocks.

    Args:
        flow: What to do for a sequence and head.
        tables: The step.
        num_kv_heads: The key-value heads held on this device.
        layer: The layer.
        is_per_block: Whether there is something to compute for each block, or
            only for each sequence.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime kernel = score_kernel[Flow, Tables]
    comptime per_block = THREADS // Flow.lanes
    var requests = tables.num_sequences() * num_kv_heads
    if requests == 0 or tables.width() == 0:
        return
    var shares = 1
    if is_per_block:
        var processors = ctx.get_attribute(DeviceAttribute.MULTIPROCESSOR_COUNT)
        shares = min(
            ceildiv(tables.width(), per_block),
            max(
                FEWEST_SHARES,
                Int(processors) * BLOCKS_PER_PROCESSOR // requests,
            ),
        )
    ctx.enqueue_function[kernel](
        flow,
        tables,
        Int32(layer),
        grid_dim=(shares, num_kv_heads, tables.num_sequences()),
        block_dim=THREADS,
        attributes=overlapping_launch(),
    )
