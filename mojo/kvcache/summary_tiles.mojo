"""Shares the tiles of completed blocks among a GPU's thread blocks.

Of a few tiles each has more lanes.
"""

from max.gpu import WARP_SIZE, thread_idx

from .block_tables import BlockTables
from .completed_blocks import WARPS, CompletedBlocks
from .gpu_summarisers import WideSummariser
from .row_share import ROW_THREADS
from .shared_memory import Shared
from .team import Team
from .tile_place import BlockPlace

comptime FEW_ROUNDS = 2
"""The rounds up to which many lanes share a tile."""


def kept_by_tiles[Flow: WideSummariser]() -> Int:
    """Returns how many numbers a thread block keeps in shared memory.

    Parameters:
        Flow: The compiled flow.

    Returns:
        The float32 numbers, at least one.
    """
    var teams = max(ROW_THREADS // Flow.lanes, ROW_THREADS // Flow.wide_lanes)
    return max(1, teams * Flow.kept)


@always_inline
def summarise_tiles[
    Flow: WideSummariser, //, num_kv_heads: Int
](
    flow: Flow,
    tables: BlockTables[...],
    completed: CompletedBlocks,
    kept: Shared[Float32],
    *,
    first_seq: Int,
    num_blocks: Int,
    num_layers: Int,
    block: Int,
    grid: Int,
):
    """Makes a thread block's share of the summaries of a round.

    Parameters:
        Flow: The compiled flow.
        num_kv_heads: The key-value heads held on this device.

    Args:
        flow: What to do with a block and head.
        tables: The step.
        completed: The round's completed blocks.
        kept: Shared memory of `kept_by_tiles` numbers.
        first_seq: The round's first sequence.
        num_blocks: How many blocks are complete.
        num_layers: The layers whose summaries are made, from the first one.
        block: The thread block, below `grid`.
        grid: The thread blocks that share the tiles.
    """
    comptime teams = WARP_SIZE // Flow.lanes
    comptime wide_teams = ROW_THREADS // Flow.wide_lanes
    var thread = Int(thread_idx.x)
    var num_tiles = num_blocks * num_layers * num_kv_heads

    @always_inline
    def place(tile: Int) {imm} -> BlockPlace:
        var plane, head = divmod(UInt32(tile), UInt32(num_kv_heads))
        var rank, layer = divmod(plane, UInt32(num_layers))
        return completed.place(
            tables, first_seq, Int(rank), layer=Int(layer), head=Int(head)
        )

    if num_tiles <= FEW_ROUNDS * grid * wide_teams:
        var team = thread // Flow.wide_lanes
        var warp_team = thread // WARP_SIZE * WARP_SIZE // Flow.wide_lanes
        for first in range(block, num_tiles, grid * wide_teams):
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
        var first_tile = (warp_index * grid + block) * teams
        for first in range(first_tile, num_tiles, grid * WARPS * teams):
            flow.summarise_gpu(
                Team[Flow.lanes](),
                place(min(first + team, num_tiles - 1)),
                first + team < num_tiles,
                kept.unsafe_offset((warp_index * teams + team) * Flow.kept),
            )
