"""What the threads of a block do in the GPU's attention for all sizes."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import barrier
from std.memory import AddressSpace
from std.sys import align_of

from .attention_products import unrolled
from .cache import PagedKVCache
from .scales import Quantization
from .vectors import gpu_width

comptime SPAN = 128
"""The threads of a block, and the keys scored at once."""

comptime MOST_HEADS = 16
"""The most query heads of a block.

What a thread holds of them fits its registers; the queries, of up to 576
elements each, and the weights fit the shared memory."""


def heads_per_block(group: Int) -> Int:
    """Returns how many query heads a block serves.

    Args:
        group: The query heads that share a key-value head.

    Returns:
        The largest divisor of the group up to `MOST_HEADS`.
    """
    var heads = min(group, MOST_HEADS)
    while group % heads != 0:
        heads -= 1
    return heads


@always_inline
def score_key[
    kv_params: KVCacheStaticParams,
    page_size: Int,
    kv_dtype: DType,
    quantization: Quantization,
    block_size: Int,
    //,
    group: Int,
](
    query: Pointer[
        Float32, MutUntrackedOrigin, address_space=AddressSpace.SHARED
    ],
    keys: PagedKVCache[
        kv_dtype, kv_params, page_size, quantization, block_size
    ],
    seq: Int,
    head: Int,
    position: Int,
) -> Array[Float32, group]:
    """Multiplies one key with all queries of its group.

    Parameters:
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.
        block_size: The tokens of a block, where blocks are chosen; else 0.
        group: The query heads that share the key.

    Args:
        query: The queries, `[group, head_dim]`.
        keys: The layer's keys.
        seq: The sequence.
        head: The key-value head.
        position: The key's position in its sequence.

    Returns:
        The scores.
    """
    comptime head_dim = kv_params.head_size
    comptime width = gpu_width[kv_dtype](keys.quantization_granularity)
    comptime align = width * align_of[Scalar[kv_dtype]]()
    var key = keys.block_paged_ptr[1](seq, position, head)
    var score = Array[Float32, group](fill=0)
    comptime part = unrolled(head_dim)
    for start in range(0, head_dim, part):
        comptime for i in range(0, part, width):
            var piece = key.unsafe_load[width=width, alignment=align](
                start + i
            ).cast[DType.float32]()
            comptime if keys.quantization_enabled:
                piece *= keys.load_scale[1](seq, head, position, start + i)
            comptime for g in range(group):
                var other = query.unsafe_load[width=width](
                    g * head_dim + start + i
                )
                score[g] += (piece * other).reduce_add()
    return score^


@always_inline
def add_teams[
    group: Int, value_dim: Int, lanes: Int, per_lane: Int, teams: Int
](
    shared: Pointer[
        Float32, MutUntrackedOrigin, address_space=AddressSpace.SHARED
    ],
    sums: Array[Float32, group * per_lane],
    team: Int,
    lane: Int,
):
    """Adds up what the teams of threads summed, one team after the other.

    Parameters:
        group: The query heads.
        value_dim: The elements per value.
        lanes: The threads in a team.
        per_lane: The elements of a value that a thread holds.
        teams: The number of teams.

    Args:
        shared: Receives the sums, `[group, value_dim]`.
        sums: What this thread holds.
        team: The thread's team; a thread past the last team holds nothing.
        lane: The thread's place in its team.
    """
    for turn in range(teams):
        if team == turn:
            comptime for i in range(per_lane):
                var dim = lane + i * SPAN
                if dim < value_dim:
                    comptime for g in range(group):
                        var before = Float32(0)
                        if turn > 0:
                            before = shared[unsafe_offset=g * value_dim + dim]
                        shared[unsafe_offset=g * value_dim + dim] = (
                            before + sums[g * per_lane + i]
                        )
        barrier()
