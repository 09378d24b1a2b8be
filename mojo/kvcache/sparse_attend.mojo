"""Attends to chosen blocks where there are any, and to all elsewhere."""

from extensibility import (
    InputTensor,
    _MutableInputTensor as MutableInputTensor,
)
from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext

from .attend_gpu import attend_gpu
from .attention_cpu import attention_cpu
from .attention_inputs import AttentionInputs
from .attention_rules import RulesInUse
from .op_tensors import read_pointer, write_pointer
from .scales import Quantization
from .sparse_gpu import sparse_gpu


def sparse_attend[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
    //,
    target: StaticString,
    block_size: Int,
](
    inputs: AttentionInputs[
        dtype,
        kv_params,
        page_size,
        num_q_heads,
        rules_in_use,
        kv_dtype,
        quantization,
    ],
    block_ids: InputTensor[dtype=DType.uint32, rank=3, ...],
    sparse_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
    workspace: MutableInputTensor[dtype=DType.uint32, rank=1, ...],
    *,
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Attends with every new token of a batch.

    On a GPU a batch with prompts takes the dense kernel first, for all: what it
    gives for sequences of one new token is written over.

    Parameters:
        dtype: The type of queries and results; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads, a multiple of the key-value heads.
        rules_in_use: The rules that the kernels are compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.
        target: Where the tensors are.
        block_size: The tokens of a block of the cache.

    Args:
        inputs: The tensors, of all that is cached.
        block_ids: The chosen blocks, `[batch_size, num_kv_heads, width]`.
        sparse_lengths: Tokens in the chosen blocks, the new one included,
            `[batch_size]`; 0 for all but the sequences of one new token.
        workspace: Memory that stays between calls, zeros before the first.
        total_tokens: The rows in the queries.
        ctx: The device's context.

    Raises:
        If a launch or a task fails.
    """
    var lengths = read_pointer(sparse_lengths)
    var chosen = inputs.over_chosen[block_size](
        read_pointer(block_ids), lengths, width=block_ids.dim_size(2)
    )
    comptime if target == "cpu":
        attention_cpu(inputs, lengths)
        attention_cpu(chosen)
    else:
        var memory = write_pointer(workspace)
        var memory_length = workspace.dim_size(0)
        if inputs.keys.max_prompt_length() > 1:
            attend_gpu(
                inputs,
                total_tokens=total_tokens,
                workspace=memory,
                workspace_length=memory_length,
                ctx=ctx,
            )
        sparse_gpu(
            chosen,
            total_tokens=total_tokens,
            workspace=memory,
            workspace_length=memory_length,
            ctx=ctx,
        )
