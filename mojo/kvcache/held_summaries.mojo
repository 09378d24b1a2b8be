"""Makes summaries of keys that a GPU's thread block holds in shared memory."""

from max.gpu import WARP_SIZE, thread_idx
from std.memory import AddressSpace
from std.sys import size_of

from .block_mover import BlockMover
from .gpu_summarisers import BlockSummariser
from .shared_memory import Shared
from .team import Team
from .tile_place import BlockPlace

comptime HELD_BYTES = 16 * 1024
"""The most bytes of keys that a thread block holds in shared memory."""


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


def can_hold[Mover: BlockMover, Flow: BlockSummariser](block_size: Int) -> Bool:
    """Returns whether summaries are made of keys in shared memory alone.

    Parameters:
        Mover: What stores rows.
        Flow: The compiled flow.

    Args:
        block_size: The tokens per block.

    Returns:
        True if they are.
    """
    var head_bytes = block_size * Mover.head_dim * size_of[Mover.row_dtype]()
    return not Flow.reads_values and head_bytes <= HELD_BYTES


@always_inline
def summarise_held[
    dtype: DType, heads: Int, block_size: Int, head_dim: Int, threads: Int
](
    flow: Some[BlockSummariser],
    held: Shared[Scalar[dtype]],
    kept: Shared[Float32],
    place: BlockPlace,
):
    """Makes the summaries of a block; all threads have seen its keys.

    Parameters:
        dtype: The element type.
        heads: How many heads.
        block_size: The tokens per block.
        head_dim: The elements per head.
        threads: The first threads of the block, which call it.

    Args:
        flow: What to do with a block and head.
        held: The keys, `[heads, block_size, head_dim]`.
        kept: Shared memory of `Held.kept` numbers for each team.
        place: The block, and the first head.
    """
    comptime Flow = type_of(flow)
    comptime Held = Flow.Held
    comptime lanes = Held.held_lanes
    var thread = Int(thread_idx.x)
    var team = thread // lanes
    var first_team = thread // WARP_SIZE * WARP_SIZE // lanes
    for first in range(first_team, heads, threads // lanes):
        var own = first + team - first_team
        var keys = held.unsafe_offset(
            min(own, heads - 1) * (block_size * head_dim)
        )
        flow.held(
            place.of_head(place.head + min(own, heads - 1)),
            keys.unsafe_address_space_cast[
                AddressSpace.GENERIC
            ]().unsafe_bitcast[Scalar[Flow.token_dtype]](),
        ).summarise_held(
            Team[lanes](),
            BlockPlace(page=0, block=0, layer=0, head=0),
            own < heads,
            kept.unsafe_offset(team * Held.kept),
        )
