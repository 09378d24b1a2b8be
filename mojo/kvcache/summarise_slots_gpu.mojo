"""Makes the summaries of blocks that slots complete, on a GPU."""

from max.gpu import WARP_SIZE, block_idx, grid_dim, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.memory import AddressSpace, stack_allocation

from .gpu_summarisers import GpuSummariser
from .overlap import await_kernels_before, overlapping_launch
from .slots import SlotRows
from .team import Team

comptime THREADS = 128
"""The threads of a block."""

comptime WARPS = THREADS // WARP_SIZE
"""The warps of a block."""


def summarise_slots_kernel[
    Flow: GpuSummariser, page_size: Int, block_size: Int, num_kv_heads: Int
](flow: Flow, rows: SlotRows[page_size, block_size, num_kv_heads]):
    """Makes the summaries of the tiles that a warp has, a team each.

    Parameters:
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.
        num_kv_heads: The key-value heads.

    Args:
        flow: What to do with a block and head.
        rows: The slots.
    """
    comptime teams = WARP_SIZE // Flow.lanes
    await_kernels_before()
    var kept = stack_allocation[
        max(1, WARPS * teams * Flow.kept),
        Float32,
        address_space=AddressSpace.SHARED,
        alignment=16,
    ]()
    var warp_index = Int(thread_idx.x) // WARP_SIZE
    var team_index = Int(thread_idx.x) % WARP_SIZE // Flow.lanes
    var first = (Int(block_idx.x) * WARPS + warp_index) * teams
    var last = rows.num_tiles() - 1
    var any_completes = False
    for team in range(teams):
        if rows.completes(min(first + team, last)):
            any_completes = True
    if not any_completes or first > last:
        return
    var tile = min(first + team_index, last)
    flow.summarise_gpu(
        Team[Flow.lanes](),
        rows.place(tile),
        first + team_index <= last and rows.completes(tile),
        kept.unsafe_offset((warp_index * teams + team_index) * Flow.kept),
    )


def summarise_slots_gpu[
    Flow: GpuSummariser, page_size: Int, block_size: Int, num_kv_heads: Int, //
](
    flow: Flow,
    rows: SlotRows[page_size, block_size, num_kv_heads],
    ctx: DeviceContext,
) raises:
    """Launches the summaries of the completed blocks.

    Parameters:
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.
        num_kv_heads: The key-value heads.

    Args:
        flow: What to do with a block and head.
        rows: The slots.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime kernel = summarise_slots_kernel[
        Flow, page_size, block_size, num_kv_heads
    ]
    if rows.num_slots == 0:
        return
    ctx.enqueue_function[kernel](
        flow,
        rows,
        grid_dim=ceildiv(rows.num_tiles(), THREADS // Flow.lanes),
        block_dim=THREADS,
        attributes=overlapping_launch(),
    )
