"""Registers the kernels over chosen blocks as MAX graph operations.

Shapes are checked before, where the graph is built.
"""

import extensibility
from extensibility import (
    InputTensor,
    OutputTensor,
    _MutableInputTensor as MutableInputTensor,
)
from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext

from .attention_inputs import AttentionInputs
from .attention_rules import AttentionRules, RulesInUse
from .block_choice import BlockChoice, ChoiceShape
from .choose_cpu import choose_cpu
from .choose_gpu import choose_gpu
from .op_tensors import (
    cache_collection,
    ragged_batch,
    read_pointer,
    result_pointer,
    write_pointer,
)
from .scales import Quantization
from .sparse_attend import sparse_attend


@extensibility.register("kvcache.choose_blocks")
struct ChooseBlocks:
    """Registers the choice of blocks as `kvcache.choose_blocks`."""

    @doc_hidden
    @staticmethod
    def execute[
        target: StaticString,
        page_size: Int,
        block_size: Int,
        num_kv_heads: Int,
        reserved_first: Int,
        reserved_last: Int,
        top_k: Int,
    ](
        block_ids: OutputTensor[dtype=DType.uint32, rank=3, ...],
        sparse_lengths: OutputTensor[dtype=DType.uint32, rank=1, ...],
        scores: InputTensor[dtype=DType.float32, rank=3, ...],
        input_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        ratios: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime shape = ChoiceShape(
            page_size=page_size,
            block_size=block_size,
            num_kv_heads=num_kv_heads,
            reserved_first=reserved_first,
            reserved_last=reserved_last,
            top_k=top_k,
        )
        var choice = BlockChoice[shape](
            block_ids=result_pointer(block_ids),
            sparse_lengths=result_pointer(sparse_lengths),
            scores=read_pointer(scores),
            batch=ragged_batch(input_row_offsets),
            cache_lengths=read_pointer(cache_lengths),
            lookup_table=read_pointer(lookup_table),
            ratios=read_pointer(ratios),
            num_columns=lookup_table.dim_size(1),
        )
        comptime if target == "cpu":
            choose_cpu(choice)
        else:
            choose_gpu(choice, ctx)


@extensibility.register("kvcache.sparse_attention")
struct SparseAttention:
    """Registers attention to chosen blocks as `kvcache.sparse_attention`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        num_q_heads: Int,
        num_kv_heads: Int,
        head_dim: Int,
        block_size: Int,
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
        block_ids: InputTensor[dtype=DType.uint32, rank=3, ...],
        sparse_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        sinks: InputTensor[dtype=DType.float32, rank=1, ...],
        scale: Float32,
        softcap: Float32,
        workspace: MutableInputTensor[dtype=DType.uint32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime params = KVCacheStaticParams(
            num_heads=num_kv_heads, head_size=head_dim
        )
        comptime in_use = RulesInUse(
            window=False, sinks=has_sinks, softcap=has_softcap
        )
        var cache = cache_collection[page_size, num_kv_heads, head_dim](
            kv_blocks, cache_lengths, lookup_table, max_lengths
        )
        var inputs = AttentionInputs[
            dtype, params, page_size, num_q_heads, in_use
        ](
            result_pointer(output),
            read_pointer(queries),
            cache.get_key_cache(Int(layer)),
            cache.get_value_cache(Int(layer)),
            ragged_batch(input_row_offsets),
            AttentionRules[in_use](
                scale,
                window=0,
                sink_tokens=0,
                softcap=softcap,
                sinks=read_pointer(sinks),
            ),
        )
        sparse_attend[target, block_size](
            inputs,
            block_ids,
            sparse_lengths,
            workspace,
            total_tokens=queries.dim_size(0),
            ctx=ctx,
        )


@extensibility.register("kvcache.sparse_attention_quantized")
struct SparseAttentionQuantized:
    """Registers the same over codes as `kvcache.sparse_attention_quantized`."""

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
        block_size: Int,
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
        block_ids: InputTensor[dtype=DType.uint32, rank=3, ...],
        sparse_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        sinks: InputTensor[dtype=DType.float32, rank=1, ...],
        scale: Float32,
        softcap: Float32,
        workspace: MutableInputTensor[dtype=DType.uint32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime quantization = Quantization(granularity, group_size)
        comptime params = KVCacheStaticParams(
            num_heads=num_kv_heads, head_size=head_dim
        )
        comptime in_use = RulesInUse(
            window=False, sinks=has_sinks, softcap=has_softcap
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
                window=0,
                sink_tokens=0,
                softcap=softcap,
                sinks=read_pointer(sinks),
            ),
        )
        sparse_attend[target, block_size](
            inputs,
            block_ids,
            sparse_lengths,
            workspace,
            total_tokens=queries.dim_size(0),
            ctx=ctx,
        )
