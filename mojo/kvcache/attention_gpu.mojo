"""Causal paged attention on a GPU.

One block serves one new token under one key-value head. Its threads score a
span of keys, one key each; then they add the values, one element each. Loads
of values are contiguous over the threads. The softmax is computed on the fly.

See:
    [Online softmax](https://arxiv.org/abs/1805.02867), for the running
    maximum, and [PagedAttention](https://arxiv.org/abs/2309.06180).
"""

from kv_cache.types import KVCacheStaticParams
from max.gpu import barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.primitives import block
from std.math import ceildiv, exp
from std.memory import AddressSpace, stack_allocation
from std.sys import align_of
from std.utils.numerics import neg_inf

from .attention_rules import AttentionRules, RulesInUse
from .cache import PagedKVCache
from .ragged import RaggedBatch
from .scales import Quantization
from .vectors import gpu_width

comptime SPAN = 128
"""The threads of a block, and the keys scored at once."""


def attention_kernel[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
](
    output: Pointer[Scalar[dtype], MutUntrackedOrigin],
    queries: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    keys: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
    values: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
    batch: RaggedBatch,
    rules: AttentionRules[rules_in_use],
):
    """Computes one token under one key-value head per block.

    Parameters:
        dtype: The type of queries and results; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads, a multiple of the key-value heads.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.

    Args:
        output: Receives the result, `[total_tokens, num_q_heads, head_dim]`.
        queries: The queries, of the same shape.
        keys: The layer's keys, those of the new tokens included.
        values: The layer's values, those of the new tokens included.
        batch: The rows of each sequence.
        rules: What a query sees, and how its scores are formed.
    """
    comptime head_dim = kv_params.head_size
    comptime group = num_q_heads // kv_params.num_heads
    comptime lanes = min(head_dim, SPAN)
    comptime per_lane = ceildiv(head_dim, SPAN)
    comptime teams = SPAN // lanes
    var row = Int(block_idx.x)
    var head = Int(block_idx.y)
    var thread = Int(thread_idx.x)
    if row >= batch.num_rows():
        return
    var seq = batch.sequence_of(row)
    var position = keys.cache_length(seq) + row - batch.start(seq)
    var num_hidden = rules.num_hidden(position)
    var num_seen = rules.num_seen(position)
    var first = (row * num_q_heads + head * group) * head_dim

    var query = stack_allocation[
        group * head_dim, Float32, address_space=AddressSpace.SHARED
    ]()
    var weights = stack_allocation[
        group * SPAN, Float32, address_space=AddressSpace.SHARED
    ]()
    for i in range(thread, group * head_dim, SPAN):
        query[unsafe_offset=i] = (
            queries[unsafe_offset=first + i].cast[DType.float32]() * rules.scale
        )
    var largest = Array[Float32, group](fill=0)
    comptime for g in range(group):
        largest[g] = rules.first_largest(head * group + g)
    var total = Array[Float32, group](fill=rules.first_weight())
    var sums = Array[Float32, group * per_lane](fill=0)
    var team, lane = divmod(thread, lanes)
    barrier()

    for start in range(0, num_seen, SPAN):
        var count = min(SPAN, num_seen - start)
        var score = Array[Float32, group](fill=neg_inf[DType.float32]())
        if thread < count:
            var seen = rules.seen(start + thread, num_hidden=num_hidden)
            score = score_key[group](query, keys, seq, head, seen)
            comptime for g in range(group):
                score[g] = rules.capped(score[g])
        comptime for g in range(group):
            var top = max(largest[g], block.max[block_size=SPAN](score[g]))
            var weight = exp(score[g] - top)
            var fade = exp(largest[g] - top)
            weights[unsafe_offset=g * SPAN + thread] = weight
            total[g] = total[g] * fade + block.sum[block_size=SPAN](weight)
            largest[g] = top
            comptime for i in range(per_lane):
                sums[g * per_lane + i] *= fade
        barrier()
        if team < teams:
            for key in range(team, count, teams):
                var seen = rules.seen(start + key, num_hidden=num_hidden)
                var value = values.block_paged_ptr[1](seq, seen, head)
                comptime for i in range(per_lane):
                    var dim = lane + i * SPAN
                    if dim < head_dim:
                        var element = value[unsafe_offset=dim].cast[
                            DType.float32
                        ]()
                        comptime if values.quantization_enabled:
                            element *= values.load_scale[1](
                                seq, head, seen, dim
                            )
                        comptime for g in range(group):
                            sums[g * per_lane + i] += (
                                weights[unsafe_offset=g * SPAN + key] * element
                            )
        barrier()

    add_teams[group, head_dim, lanes, per_lane, teams](query, sums, team, lane)
    for i in range(thread, group * head_dim, SPAN):
        var result = query[unsafe_offset=i]
        comptime for g in range(group):
            if i // head_dim == g:
                result /= total[g]
        output[unsafe_offset=first + i] = result.cast[dtype]()


@always_inline
def score_key[
    kv_params: KVCacheStaticParams,
    page_size: Int,
    kv_dtype: DType,
    quantization: Quantization,
    //,
    group: Int,
](
    query: Pointer[
        Float32, MutUntrackedOrigin, address_space=AddressSpace.SHARED
    ],
    keys: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
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
    comptime for i in range(0, head_dim, width):
        var piece = key.unsafe_load[width=width, alignment=align](i).cast[
            DType.float32
        ]()
        comptime if keys.quantization_enabled:
            piece *= keys.load_scale[1](seq, head, position, i)
        comptime for g in range(group):
            var part = query.unsafe_load[width=width](g * head_dim + i)
            score[g] += (piece * part).reduce_add()
    return score^


@always_inline
def add_teams[
    group: Int, head_dim: Int, lanes: Int, per_lane: Int, teams: Int
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
        head_dim: The elements per head.
        lanes: The threads in a team.
        per_lane: The elements of a head that a thread holds.
        teams: The number of teams.

    Args:
        shared: Receives the sums, `[group, head_dim]`.
        sums: What this thread holds.
        team: The thread's team; a thread past the last team holds nothing.
        lane: The thread's place in its team.
    """
    for turn in range(teams):
        if team == turn:
            comptime for i in range(per_lane):
                var dim = lane + i * SPAN
                if dim < head_dim:
                    comptime for g in range(group):
                        var before = Float32(0)
                        if turn > 0:
                            before = shared[unsafe_offset=g * head_dim + dim]
                        shared[unsafe_offset=g * head_dim + dim] = (
                            before + sums[g * per_lane + i]
                        )
        barrier()


def attention_gpu[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
    //,
    num_q_heads: Int,
](
    output: Pointer[Scalar[dtype], MutUntrackedOrigin],
    queries: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    keys: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
    values: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
    batch: RaggedBatch,
    rules: AttentionRules[rules_in_use],
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the attention, one block a token and key-value head.

    Parameters:
        dtype: The type of queries and results; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.
        num_q_heads: The query heads, a multiple of the key-value heads.

    Args:
        output: Receives the result, `[total_tokens, num_q_heads, head_dim]`.
        queries: The queries, of the same shape.
        keys: The layer's keys, those of the new tokens included.
        values: The layer's values, those of the new tokens included.
        batch: The rows of each sequence.
        rules: What a query sees, and how its scores are formed.
        total_tokens: The rows in `queries`.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    if total_tokens == 0:
        return
    comptime kernel = attention_kernel[
        dtype,
        kv_params,
        page_size,
        num_q_heads,
        rules_in_use,
        kv_dtype,
        quantization,
    ]
    ctx.enqueue_function[kernel](
        output,
        queries,
        keys,
        values,
        batch,
        rules,
        grid_dim=(total_tokens, kv_params.num_heads),
        block_dim=SPAN,
    )
