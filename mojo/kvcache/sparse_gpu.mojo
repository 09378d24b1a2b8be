"""Attention to chosen blocks of each sequence, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext

from .attention_gpu import attention_gpu
from .attention_inputs import AttentionInputs
from .attention_rules import RulesInUse
from .decode_call import DecodeCall, Workspace
from .decode_gpu import decode_gpu
from .decode_shape import DecodeShape
from .scales import Quantization


def sparse_gpu[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
    block_size: Int,
    //,
](
    inputs: AttentionInputs[
        dtype,
        kv_params,
        page_size,
        num_q_heads,
        rules_in_use,
        kv_dtype,
        quantization,
        block_size=block_size,
    ],
    *,
    total_tokens: Int,
    workspace: Pointer[UInt32, MutUntrackedOrigin],
    workspace_length: Int,
    ctx: DeviceContext,
) raises:
    """Takes the decode kernel where the sizes fit it, else the kernel for all.

    Sequences without chosen blocks keep what is in the result. Neighbouring
    heads read blocks of their own, so a block of the kernel serves one head.

    Parameters:
        dtype: The type of queries and results; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads, a multiple of the key-value heads.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.
        block_size: The tokens of a block of the cache.

    Args:
        inputs: The tensors.
        total_tokens: The rows in the queries.
        workspace: Memory that stays between calls, zeros before the first.
        workspace_length: The words of the workspace.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime paired = DecodeShape(
        code=kv_dtype,
        dtype=dtype,
        kv_params=kv_params,
        page_size=page_size,
        num_q_heads=num_q_heads,
        quantization=quantization,
        rules=rules_in_use,
        most_heads=2,
        block_size=block_size,
    )
    comptime shape = (
        paired.narrow() if paired.narrow().is_supported() else paired
    )
    comptime if shape.is_supported():
        var memory = Workspace(
            workspace,
            length=workspace_length,
            per_block=shape.workspace_per_block(),
        )
        decode_gpu(DecodeCall[shape](inputs, memory), ctx)
    else:
        attention_gpu[num_q_heads](
            inputs.output,
            inputs.queries,
            inputs.keys,
            inputs.values,
            inputs.batch,
            inputs.rules,
            total_tokens,
            ctx,
        )
