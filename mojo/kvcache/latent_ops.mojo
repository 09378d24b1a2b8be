"""Registers the kernels over pages of latents as MAX graph operations.

A latent stands for the keys and values of all heads (MLA): it is read as the
key that all query heads share, and its leading elements as the value. An op's
name is that of the one over keys and values, with `_latents` behind it. Shapes
are checked before, where the graph is built.

See:
    [DeepSeek-V2](https://arxiv.org/abs/2405.04434), for the latents.
"""

import extensibility
from extensibility import (
    InputTensor,
    OutputTensor,
    _MutableInputTensor as MutableInputTensor,
)
from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext

from .attention_cpu import attention_cpu
from .attention_gpu import attention_gpu
from .attention_inputs import AttentionInputs
from .attention_rules import AttentionRules, RulesInUse
from .gather_latents_cpu import gather_latents_cpu
from .gather_latents_gpu import gather_latents_gpu
from .op_tensors import (
    cache_collection,
    ragged_batch,
    read_pointer,
    result_pointer,
    write_pointer,
)
from .store_latents_cpu import store_latents_cpu
from .store_latents_gpu import store_latents_gpu


@extensibility.register("kvcache.store_latents")
struct StoreLatents:
    """Registers the store of latents as `kvcache.store_latents`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        head_dim: Int,
    ](
        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],
        latents: InputTensor[dtype=dtype, rank=2, ...],
        input_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        var cache = cache_collection[page_size, 1, head_dim, is_mla=True](
            kv_blocks, cache_lengths, lookup_table, max_lengths
        ).get_key_cache(Int(layer))
        var batch = ragged_batch(input_row_offsets)
        comptime if target == "cpu":
            store_latents_cpu(read_pointer(latents), cache, batch)
        else:
            store_latents_gpu(
                read_pointer(latents), cache, batch, latents.dim_size(0), ctx
            )


@extensibility.register("kvcache.gather_latents")
struct GatherLatents:
    """Registers the gather of latents as `kvcache.gather_latents`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        head_dim: Int,
    ](
        latents: MutableInputTensor[dtype=dtype, rank=2, ...],
        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],
        context_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        var cache = cache_collection[page_size, 1, head_dim, is_mla=True](
            kv_blocks, cache_lengths, lookup_table, max_lengths
        ).get_key_cache(Int(layer))
        var context = ragged_batch(context_row_offsets)
        comptime if target == "cpu":
            gather_latents_cpu(write_pointer(latents), cache, context)
        else:
            gather_latents_gpu(
                write_pointer(latents), cache, context, latents.dim_size(0), ctx
            )


@extensibility.register("kvcache.attention_latents")
struct AttentionLatents:
    """Registers causal attention to latents as `kvcache.attention_latents`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        num_q_heads: Int,
        head_dim: Int,
        value_dim: Int,
        has_window: Bool,
        has_sinks: Bool,
        has_softcap: Bool,
    ](
        output: OutputTensor[dtype=dtype, rank=3, ...],
        queries: InputTensor[dtype=dtype, rank=3, ...],
        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],
        input_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        sinks: InputTensor[dtype=DType.float32, rank=1, ...],
        scale: Float32,
        window: UInt32,
        sink_tokens: UInt32,
        softcap: Float32,
        ctx: DeviceContext,
    ) raises:
        comptime params = KVCacheStaticParams(
            num_heads=1, head_size=head_dim, is_mla=True
        )
        comptime in_use = RulesInUse(
            window=has_window, sinks=has_sinks, softcap=has_softcap
        )
        var latents = cache_collection[page_size, 1, head_dim, is_mla=True](
            kv_blocks, cache_lengths, lookup_table, max_lengths
        ).get_key_cache(Int(layer))
        var batch = ragged_batch(input_row_offsets)
        var rules = AttentionRules[in_use](
            scale,
            window=Int(window),
            sink_tokens=Int(sink_tokens),
            softcap=softcap,
            sinks=read_pointer(sinks),
        )
        comptime if target == "cpu":
            attention_cpu(
                AttentionInputs[
                    dtype,
                    params,
                    page_size,
                    num_q_heads,
                    in_use,
                    value_dim_=value_dim,
                ](
                    result_pointer(output),
                    read_pointer(queries),
                    latents,
                    latents,
                    batch,
                    rules,
                )
            )
        else:
            attention_gpu[num_q_heads, value_dim](
                result_pointer(output),
                read_pointer(queries),
                latents,
                latents,
                batch,
                rules,
                queries.dim_size(0),
                ctx,
            )
