"""Registers the kernels over quantised latents as MAX graph operations.

An op's name is that of the one over plain latents, with `_quantized` behind it.
Each token has scales of its own. Shapes are checked before, where the graph is
built.
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
from .gather_quantized_cpu import gather_quantized_cpu
from .gather_quantized_gpu import gather_quantized_gpu
from .op_tensors import (
    cache_collection,
    ragged_batch,
    read_pointer,
    result_pointer,
    write_pointer,
)
from .quantized_pages import QuantizedPages
from .scales import Quantization
from .store_quantized_cpu import store_quantized_cpu
from .store_quantized_gpu import store_quantized_gpu


@extensibility.register("kvcache.store_latents_quantized")
struct StoreLatentsQuantized:
    """Registers the store as `kvcache.store_latents_quantized`."""

    @doc_hidden
    @staticmethod
    def execute[
        kv_dtype: DType,
        dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        head_dim: Int,
        granularity: Int,
        group_size: Int,
    ](
        kv_blocks: MutableInputTensor[dtype=kv_dtype, rank=6, ...],
        kv_scales: MutableInputTensor[dtype=DType.float32, rank=6, ...],
        latents: InputTensor[dtype=dtype, rank=2, ...],
        input_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        comptime quantization = Quantization(granularity, group_size)
        comptime params = KVCacheStaticParams(
            num_heads=1, head_size=head_dim, is_mla=True
        )
        var cache = cache_collection[
            page_size, 1, head_dim, quantization, is_mla=True
        ](
            kv_blocks,
            cache_lengths,
            lookup_table,
            max_lengths,
            write_pointer(kv_scales),
        ).get_key_cache(
            Int(layer)
        )
        # No scales are given: the pointer to them is not looked at.
        var pages = QuantizedPages[kv_dtype, params, page_size, quantization](
            cache, cache, write_pointer(kv_scales).unsafe_mut_cast[False]()
        )
        var rows = read_pointer(latents)
        var batch = ragged_batch(input_row_offsets)
        comptime if target == "cpu":
            store_quantized_cpu(rows, rows, pages, batch)
        else:
            store_quantized_gpu(
                rows, rows, pages, batch, latents.dim_size(0), ctx
            )


@extensibility.register("kvcache.gather_latents_quantized")
struct GatherLatentsQuantized:
    """Registers the gather as `kvcache.gather_latents_quantized`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        kv_dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        head_dim: Int,
        granularity: Int,
        group_size: Int,
    ](
        latents: MutableInputTensor[dtype=dtype, rank=2, ...],
        kv_blocks: MutableInputTensor[dtype=kv_dtype, rank=6, ...],
        kv_scales: MutableInputTensor[dtype=DType.float32, rank=6, ...],
        context_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        var cache = cache_collection[
            page_size,
            1,
            head_dim,
            Quantization(granularity, group_size),
            is_mla=True,
        ](
            kv_blocks,
            cache_lengths,
            lookup_table,
            max_lengths,
            write_pointer(kv_scales),
        ).get_key_cache(
            Int(layer)
        )
        var rows = write_pointer(latents)
        var context = ragged_batch(context_row_offsets)
        comptime if target == "cpu":
            gather_quantized_cpu(rows, rows, cache, cache, context)
        else:
            gather_quantized_gpu(
                rows, rows, cache, cache, context, latents.dim_size(0), ctx
            )


@extensibility.register("kvcache.attention_latents_quantized")
struct AttentionLatentsQuantized:
    """Registers causal attention as `kvcache.attention_latents_quantized`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        kv_dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        num_q_heads: Int,
        head_dim: Int,
        value_dim: Int,
        granularity: Int,
        group_size: Int,
        has_window: Bool,
        has_sinks: Bool,
        has_softcap: Bool,
    ](
        output: OutputTensor[dtype=dtype, rank=3, ...],
        queries: InputTensor[dtype=dtype, rank=3, ...],
        kv_blocks: MutableInputTensor[dtype=kv_dtype, rank=6, ...],
        kv_scales: MutableInputTensor[dtype=DType.float32, rank=6, ...],
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
        comptime quantization = Quantization(granularity, group_size)
        comptime in_use = RulesInUse(
            window=has_window, sinks=has_sinks, softcap=has_softcap
        )
        var latents = cache_collection[
            page_size, 1, head_dim, quantization, is_mla=True
        ](
            kv_blocks,
            cache_lengths,
            lookup_table,
            max_lengths,
            write_pointer(kv_scales),
        ).get_key_cache(
            Int(layer)
        )
        var inputs = AttentionInputs[
            dtype,
            KVCacheStaticParams(num_heads=1, head_size=head_dim, is_mla=True),
            page_size,
            num_q_heads,
            in_use,
            kv_dtype,
            quantization,
            value_dim,
        ](
            result_pointer(output),
            read_pointer(queries),
            latents,
            latents,
            ragged_batch(input_row_offsets),
            AttentionRules[in_use](
                scale,
                window=Int(window),
                sink_tokens=Int(sink_tokens),
                softcap=softcap,
                sinks=read_pointer(sinks),
            ),
        )
        comptime if target == "cpu":
            attention_cpu(inputs)
        else:
            attention_gpu[num_q_heads, value_dim](
                inputs.output,
                inputs.queries,
                inputs.keys,
                inputs.values,
                inputs.batch,
                inputs.rules,
                queries.dim_size(0),
                ctx,
            )
