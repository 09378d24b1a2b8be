"""Registers the kernels over quantised pages as MAX graph operations.

An op's name is that of the one over plain pages, with `_quantized` behind it.
It takes the pool of scales beside the pool, and its rows may have another type
than the codes. Shapes are checked before, where the graph is built.
"""

import extensibility
from extensibility import (
    InputTensor,
    OutputTensor,
    _MutableInputTensor as MutableInputTensor,
)
from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext

from .attend_gpu import attend_gpu
from .attention_cpu import attention_cpu
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
from .rope_store_quantized import RopeStoreQuantized
from .rope_store_quantized_cpu import rope_store_quantized_cpu
from .rope_store_quantized_gpu import rope_store_quantized_gpu
from .scales import Quantization
from .store_quantized_cpu import store_quantized_cpu
from .store_quantized_gpu import store_quantized_gpu


@extensibility.register("kvcache.store_quantized")
struct StoreQuantized:
    """Registers the store of keys and values as `kvcache.store_quantized`."""

    @doc_hidden
    @staticmethod
    def execute[
        kv_dtype: DType,
        dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        num_kv_heads: Int,
        head_dim: Int,
        granularity: Int,
        group_size: Int,
    ](
        kv_blocks: MutableInputTensor[dtype=kv_dtype, rank=6, ...],
        kv_scales: MutableInputTensor[dtype=DType.float32, rank=6, ...],
        keys: InputTensor[dtype=dtype, rank=3, ...],
        values: InputTensor[dtype=dtype, rank=3, ...],
        scales: InputTensor[dtype=DType.float32, rank=2, ...],
        input_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        comptime quantization = Quantization(granularity, group_size)
        comptime params = KVCacheStaticParams(
            num_heads=num_kv_heads, head_size=head_dim
        )
        var cache = cache_collection[
            page_size, num_kv_heads, head_dim, quantization
        ](
            kv_blocks,
            cache_lengths,
            lookup_table,
            max_lengths,
            write_pointer(kv_scales),
        )
        var pages = QuantizedPages[kv_dtype, params, page_size, quantization](
            cache.get_key_cache(Int(layer)),
            cache.get_value_cache(Int(layer)),
            read_pointer(scales),
        )
        var batch = ragged_batch(input_row_offsets)
        comptime if target == "cpu":
            store_quantized_cpu(
                read_pointer(keys), read_pointer(values), pages, batch
            )
        else:
            store_quantized_gpu(
                read_pointer(keys),
                read_pointer(values),
                pages,
                batch,
                keys.dim_size(0),
                ctx,
            )


@extensibility.register("kvcache.gather_quantized")
struct GatherQuantized:
    """Registers the gather of keys and values as `kvcache.gather_quantized`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        kv_dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        num_kv_heads: Int,
        head_dim: Int,
        granularity: Int,
        group_size: Int,
    ](
        keys: MutableInputTensor[dtype=dtype, rank=3, ...],
        values: MutableInputTensor[dtype=dtype, rank=3, ...],
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
            num_kv_heads,
            head_dim,
            Quantization(granularity, group_size),
        ](
            kv_blocks,
            cache_lengths,
            lookup_table,
            max_lengths,
            write_pointer(kv_scales),
        )
        var key_cache = cache.get_key_cache(Int(layer))
        var value_cache = cache.get_value_cache(Int(layer))
        var context = ragged_batch(context_row_offsets)
        comptime if target == "cpu":
            gather_quantized_cpu(
                write_pointer(keys),
                write_pointer(values),
                key_cache,
                value_cache,
                context,
            )
        else:
            gather_quantized_gpu(
                write_pointer(keys),
                write_pointer(values),
                key_cache,
                value_cache,
                context,
                keys.dim_size(0),
                ctx,
            )


@extensibility.register("kvcache.rope_store_quantized")
struct RopeStoreQuantizedOp:
    """Registers rotation and store as `kvcache.rope_store_quantized`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        kv_dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        num_q_heads: Int,
        num_kv_heads: Int,
        head_dim: Int,
        rope_dim: Int,
        interleaved: Bool,
        granularity: Int,
        group_size: Int,
    ](
        queries: OutputTensor[dtype=dtype, rank=3, ...],
        kv_blocks: MutableInputTensor[dtype=kv_dtype, rank=6, ...],
        kv_scales: MutableInputTensor[dtype=DType.float32, rank=6, ...],
        qkv: InputTensor[dtype=dtype, rank=2, ...],
        freqs: InputTensor[dtype=DType.float32, rank=2, ...],
        scales: InputTensor[dtype=DType.float32, rank=2, ...],
        input_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        comptime quantization = Quantization(granularity, group_size)
        comptime params = KVCacheStaticParams(
            num_heads=num_kv_heads, head_size=head_dim
        )
        var cache = cache_collection[
            page_size, num_kv_heads, head_dim, quantization
        ](
            kv_blocks,
            cache_lengths,
            lookup_table,
            max_lengths,
            write_pointer(kv_scales),
        )
        var work = RopeStoreQuantized[
            dtype,
            kv_dtype,
            params,
            page_size,
            quantization,
            num_q_heads,
            rope_dim,
            interleaved,
        ](
            result_pointer(queries),
            read_pointer(qkv),
            read_pointer(freqs),
            freqs.dim_size(0),
            QuantizedPages[kv_dtype, params, page_size, quantization](
                cache.get_key_cache(Int(layer)),
                cache.get_value_cache(Int(layer)),
                read_pointer(scales),
            ),
            ragged_batch(input_row_offsets),
        )
        comptime if target == "cpu":
            rope_store_quantized_cpu(work)
        else:
            rope_store_quantized_gpu(work, qkv.dim_size(0), ctx)


@extensibility.register("kvcache.attention_quantized")
struct AttentionQuantized:
    """Registers causal paged attention as `kvcache.attention_quantized`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        kv_dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        num_q_heads: Int,
        num_kv_heads: Int,
        head_dim: Int,
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
        workspace: MutableInputTensor[dtype=DType.uint32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime quantization = Quantization(granularity, group_size)
        comptime params = KVCacheStaticParams(
            num_heads=num_kv_heads, head_size=head_dim
        )
        comptime in_use = RulesInUse(
            window=has_window, sinks=has_sinks, softcap=has_softcap
        )
        var cache = cache_collection[
            page_size, num_kv_heads, head_dim, quantization
        ](
            kv_blocks,
            cache_lengths,
            lookup_table,
            max_lengths,
            write_pointer(kv_scales),
        )
        var inputs = AttentionInputs[
            dtype,
            params,
            page_size,
            num_q_heads,
            in_use,
            kv_dtype,
            quantization,
        ](
            result_pointer(output),
            read_pointer(queries),
            cache.get_key_cache(Int(layer)),
            cache.get_value_cache(Int(layer)),
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
            attend_gpu(
                inputs,
                total_tokens=queries.dim_size(0),
                workspace=write_pointer(workspace),
                workspace_length=workspace.dim_size(0),
                ctx=ctx,
            )
