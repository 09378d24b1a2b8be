"""Picks the GPU's attention kernel for a batch."""

from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext
from max.gpu.host.info import H100

from .attention_gpu import attention_gpu
from .attention_inputs import AttentionInputs
from .attention_rules import RulesInUse
from .decode_call import DecodeCall, Workspace
from .decode_gpu import decode_gpu
from .decode_shape import DecodeShape
from .prefill_call import PrefillCall
from .prefill_gpu import prefill_gpu
from .prefill_shape import PrefillShape
from .scales import Quantization

comptime NARROW_BYTES = 288 << 20
"""The bytes of keys and values up to which blocks of one head decode faster.

On an H200 they take 4 to 20 % less time up to here, and a little more from the
double on."""


def attend_gpu[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
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
    ],
    *,
    total_tokens: Int,
    workspace: Pointer[UInt32, MutUntrackedOrigin],
    workspace_length: Int,
    ctx: DeviceContext,
) raises:
    """Decodes where no sequence has more than one new token and the sizes fit
    the decode kernel; else takes the prefill kernel on a Hopper GPU, where the
    sizes fit that one; else the kernel that fits everything.

    Parameters:
        dtype: The type of queries and results; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads, a multiple of the key-value heads.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.

    Args:
        inputs: The tensors.
        total_tokens: The rows in the queries.
        workspace: Memory that stays between calls, zeros before the first.
        workspace_length: The words of the workspace.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime shape = DecodeShape(
        code=kv_dtype,
        dtype=dtype,
        kv_params=kv_params,
        page_size=page_size,
        num_q_heads=num_q_heads,
        quantization=quantization,
        rules=rules_in_use,
        most_heads=2,
        block_size=0,
    )
    comptime if shape.is_supported():
        if inputs.keys.max_prompt_length() <= 1:
            var memory = Workspace(
                workspace,
                length=workspace_length,
                per_block=shape.workspace_per_block(),
            )
            comptime narrow = shape.narrow()
            comptime if narrow.heads() < shape.heads() and narrow.is_supported():
                var tokens = Int(inputs.batch.batch_size) * Int(
                    inputs.keys.max_context_length()
                )
                if shape.bytes_of(tokens) <= NARROW_BYTES:
                    decode_gpu(DecodeCall[narrow](inputs, memory), ctx)
                    return
            decode_gpu(DecodeCall[shape](inputs, memory), ctx)
            return
    comptime prompt_shape = PrefillShape(
        code=kv_dtype,
        dtype=dtype,
        kv_params=kv_params,
        page_size=page_size,
        num_q_heads=num_q_heads,
        quantization=quantization,
        rules=rules_in_use,
    )
    comptime is_hopper = (
        DeviceContext.default_device_info.compute == H100.compute
    )
    comptime if is_hopper and prompt_shape.is_supported():
        var is_within_reach = prompt_shape.reaches(inputs.keys.num_rows())
        # Scores are compared before they are scaled.
        if inputs.rules.scale > 0 and is_within_reach:
            var call = PrefillCall[prompt_shape](inputs)
            prefill_gpu(
                call, total_tokens=total_tokens, workspace=workspace, ctx=ctx
            )
            return
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
