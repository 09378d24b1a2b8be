"""Causal paged attention on a GPU.

One block serves one new token under query heads that share a key-value head.
Its threads score a span of keys, one key each; then they add the values, one
element each. Loads of values are contiguous over the threads. The softmax is
computed on the fly.

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
from std.utils.numerics import neg_inf

from .attention_block import SPAN, add_teams, heads_per_block, score_key
from .attention_rules import AttentionRules, RulesInUse
from .cache import PagedKVCache
from .ragged import RaggedBatch
from .scales import Quantization


def attention_kernel[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
    value_dim: Int,
    block_size: Int = 0,
](
    output: Pointer[Scalar[dtype], MutUntrackedOrigin],
    queries: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    keys: PagedKVCache[
        kv_dtype, kv_params, page_size, quantization, block_size
    ],
    values: PagedKVCache[
        kv_dtype, kv_params, page_size, quantization, block_size
    ],
    batch: RaggedBatch,
    rules: AttentionRules[rules_in_use],
):
    """Computes one token under a few query heads per block.

    Parameters:
        dtype: The type of queries and results; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads, a multiple of the key-value heads.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.
        value_dim: The leading elements of a value that count.
        block_size: The tokens of a block, where blocks are chosen; else 0.

    Args:
        output: Receives the result, `[total_tokens, num_q_heads, value_dim]`.
        queries: The queries, `[total_tokens, num_q_heads, head_dim]`.
        keys: The layer's keys, those of the new tokens included.
        values: The layer's values, those of the new tokens included.
        batch: The rows of each sequence.
        rules: What a query sees, and how its scores are formed.
    """
    comptime head_dim = kv_params.head_size
    comptime group = heads_per_block(num_q_heads // kv_params.num_heads)
    comptime lanes = min(value_dim, SPAN)
    comptime per_lane = ceildiv(value_dim, SPAN)
    comptime teams = SPAN // lanes
    var row = Int(block_idx.x)
    var first_head = Int(block_idx.y) * group
    var head = first_head // (num_q_heads // kv_params.num_heads)
    var thread = Int(thread_idx.x)
    if row >= batch.num_rows():
        return
    var seq = batch.sequence_of(row)
    comptime if block_size:
        if keys.cache_length(seq) < 0:
            return
    var position = keys.cache_length(seq) + row - batch.start(seq)
    var num_hidden = rules.num_hidden(position)
    var num_seen = rules.num_seen(position)
    var first = row * num_q_heads + first_head

    var query = stack_allocation[
        group * head_dim, Float32, address_space=AddressSpace.SHARED
    ]()
    var weights = stack_allocation[
        group * SPAN, Float32, address_space=AddressSpace.SHARED
    ]()
    for i in range(thread, group * head_dim, SPAN):
        query[unsafe_offset=i] = (
            queries[unsafe_offset=first * head_dim + i].cast[DType.float32]()
            * rules.scale
        )
    var largest = Array[Float32, group](fill=0)
    comptime for g in range(group):
        largest[g] = rules.first_largest(first_head + g)
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
                    if dim < value_dim:
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

    add_teams[group, value_dim, lanes, per_lane, teams](query, sums, team, lane)
    for i in range(thread, group * value_dim, SPAN):
        var result = query[unsafe_offset=i]
        comptime for g in range(group):
            if i // value_dim == g:
                result /= total[g]
        output[unsafe_offset=first * value_dim + i] = result.cast[dtype]()


def attention_gpu[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
    block_size: Int,
    //,
    num_q_heads: Int,
    value_dim: Int = kv_params.head_size,
](
    output: Pointer[Scalar[dtype], MutUntrackedOrigin],
    queries: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    keys: PagedKVCache[
        kv_dtype, kv_params, page_size, quantization, block_size
    ],
    values: PagedKVCache[
        kv_dtype, kv_params, page_size, quantization, block_size
    ],
    batch: RaggedBatch,
    rules: AttentionRules[rules_in_use],
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the attention, one block for a few heads of a token.

    Where blocks are chosen, it leaves sequences without any as they are.

    Parameters:
        dtype: The type of queries and results; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.
        block_size: The tokens of a block, where blocks are chosen; else 0.
        num_q_heads: The query heads, a multiple of the key-value heads.
        value_dim: The leading elements of a value that count.

    Args:
        output: Receives the result, `[total_tokens, num_q_heads, value_dim]`.
        queries: The queries, `[total_tokens, num_q_heads, head_dim]`.
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
        value_dim,
        block_size,
    ]
    comptime group = num_q_heads // kv_params.num_heads
    ctx.enqueue_function[kernel](
        output,
        queries,
        keys,
        values,
        batch,
        rules,
        grid_dim=(total_tokens, num_q_heads // heads_per_block(group)),
        block_dim=SPAN,
    )
