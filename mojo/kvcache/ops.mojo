"""Registers the kernels as MAX graph operations.

It picks a kernel for the target and does nothing else, as `quantized_ops.mojo`
does for quantised pools. Shapes are checked before, where the graph is built.
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
from .attend_gpu import attend_gpu
from .attention_inputs import AttentionInputs
from .attention_max import attention_max
from .attention_rules import AttentionRules, RulesInUse
from .copy_cpu import copy_pages_cpu
from .copy_gpu import copy_pages_gpu
from .gather_cpu import gather_cpu
from .gather_gpu import gather_gpu
from .op_tensors import (
    cache_collection as _collection,
    ragged_batch as _batch,
    read_pointer as _read,
    result_pointer as _result,
    write_pointer as _write,
)
from .rope_shift import RopeShift
from .rope_shift_cpu import rope_shift_cpu
from .rope_shift_gpu import rope_shift_gpu
from .rope_store import RopeStore
from .rope_store_cpu import rope_store_cpu
from .rope_store_gpu import rope_store_gpu
from .store_cpu import store_cpu
from .store_gpu import store_gpu
from .vectors import GPU_VECTOR_BYTES


@extensibility.register("kvcache.store")
struct Store:
    """Registers the store of keys and values as `kvcache.store`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        num_kv_heads: Int,
        head_dim: Int,
    ](
        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],
        keys: InputTensor[dtype=dtype, rank=3, ...],
        values: InputTensor[dtype=dtype, rank=3, ...],
        input_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        var cache = _collection[page_size, num_kv_heads, head_dim](
            kv_blocks, cache_lengths, lookup_table, max_lengths
        )
        comptime if target == "cpu":
            store_cpu(
                _read(keys),
                _read(values),
                cache.get_key_cache(Int(layer)),
                cache.get_value_cache(Int(layer)),
                _batch(input_row_offsets),
            )
        else:
            store_gpu(
                _read(keys),
                _read(values),
                cache.get_key_cache(Int(layer)),
                cache.get_value_cache(Int(layer)),
                _batch(input_row_offsets),
                keys.dim_size(0),
                ctx,
            )


@extensibility.register("kvcache.rope_store")
struct RopeStoreOp:
    """Registers rotation and store of one layer as `kvcache.rope_store`."""

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
        rope_dim: Int,
        interleaved: Bool,
    ](
        queries: OutputTensor[dtype=dtype, rank=3, ...],
        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],
        qkv: InputTensor[dtype=dtype, rank=2, ...],
        freqs: InputTensor[dtype=DType.float32, rank=2, ...],
        input_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        comptime params = KVCacheStaticParams(
            num_heads=num_kv_heads, head_size=head_dim
        )
        var cache = _collection[page_size, num_kv_heads, head_dim](
            kv_blocks, cache_lengths, lookup_table, max_lengths
        )
        var work = RopeStore[
            dtype, params, page_size, num_q_heads, rope_dim, interleaved
        ](
            _result(queries),
            _read(qkv),
            _read(freqs),
            freqs.dim_size(0),
            cache.get_key_cache(Int(layer)),
            cache.get_value_cache(Int(layer)),
            _batch(input_row_offsets),
        )
        comptime if target == "cpu":
            rope_store_cpu(work)
        else:
            rope_store_gpu(work, qkv.dim_size(0), ctx)


@extensibility.register("kvcache.gather")
struct Gather:
    """Registers the gather of keys and values as `kvcache.gather`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        num_kv_heads: Int,
        head_dim: Int,
    ](
        keys: MutableInputTensor[dtype=dtype, rank=3, ...],
        values: MutableInputTensor[dtype=dtype, rank=3, ...],
        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],
        context_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        var cache = _collection[page_size, num_kv_heads, head_dim](
            kv_blocks, cache_lengths, lookup_table, max_lengths
        )
        comptime if target == "cpu":
            gather_cpu(
                _write(keys),
                _write(values),
                cache.get_key_cache(Int(layer)),
                cache.get_value_cache(Int(layer)),
                _batch(context_row_offsets),
            )
        else:
            gather_gpu(
                _write(keys),
                _write(values),
                cache.get_key_cache(Int(layer)),
                cache.get_value_cache(Int(layer)),
                _batch(context_row_offsets),
                keys.dim_size(0),
                ctx,
            )


@extensibility.register("kvcache.copy_pages")
struct CopyPages:
    """Registers the copy of pages in the pool as `kvcache.copy_pages`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        //,
        target: StaticString,
        plane_stride: Int,
    ](
        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],
        pairs: InputTensor[dtype=DType.uint32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        var page_stride = (
            kv_blocks.dim_size(1) * kv_blocks.dim_size(2) * plane_stride
        )
        comptime if target == "cpu":
            copy_pages_cpu(
                _write(kv_blocks),
                _read(pairs),
                num_pairs=pairs.dim_size(0),
                num_pages=kv_blocks.dim_size(0) - 1,
                page_stride=page_stride,
            )
        else:
            copy_pages_gpu[plane_stride](
                _write(kv_blocks),
                _write(kv_blocks),
                _read(pairs),
                num_pairs=pairs.dim_size(0),
                num_targets=kv_blocks.dim_size(0) - 1,
                num_sources=kv_blocks.dim_size(0) - 1,
                page_stride=page_stride,
                ctx=ctx,
            )


@extensibility.register("kvcache.transfer_pages")
struct TransferPages:
    """Registers the copy of pages to or from the host's memory as
    `kvcache.transfer_pages`."""

    @doc_hidden
    @staticmethod
    def execute[
        target: StaticString, to_host: Bool
    ](
        pages: MutableInputTensor[dtype=DType.uint8, rank=2, ...],
        host_pages: MutableInputTensor[dtype=DType.uint8, rank=2, ...],
        pairs: InputTensor[dtype=DType.uint32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        comptime assert target != "cpu", "wanted a GPU to move the pages"
        var to = _write(host_pages) if to_host else _write(pages)
        var source = _write(pages) if to_host else _write(host_pages)
        var count = pages.dim_size(0)
        var host_count = host_pages.dim_size(0)
        copy_pages_gpu[GPU_VECTOR_BYTES](
            to,
            source,
            _read(pairs),
            num_pairs=pairs.dim_size(0),
            num_targets=host_count if to_host else count,
            num_sources=count if to_host else host_count,
            page_stride=pages.dim_size(1),
            ctx=ctx,
        )


@extensibility.register("kvcache.rope_shift")
struct RopeShiftOp:
    """Registers the turn of cached keys as `kvcache.rope_shift`."""

    @doc_hidden
    @staticmethod
    def execute[
        dtype: DType,
        //,
        target: StaticString,
        page_size: Int,
        num_kv_heads: Int,
        head_dim: Int,
        rope_begin: Int,
        rope_dim: Int,
        interleaved: Bool,
    ](
        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],
        freqs: InputTensor[dtype=DType.float32, rank=2, ...],
        shifts: InputTensor[dtype=DType.uint32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        comptime Work = RopeShift[
            dtype,
            page_size,
            num_kv_heads,
            head_dim,
            rope_begin,
            rope_dim,
            interleaved,
        ]
        var num_layers = kv_blocks.dim_size(2)
        var work = Work(
            _write(kv_blocks),
            _read(freqs),
            _read(shifts),
            num_pages=kv_blocks.dim_size(0) - 1,
            num_rows=freqs.dim_size(0),
            page_stride=kv_blocks.dim_size(1)
            * num_layers
            * Work.Plane.plane_stride,
        )
        var num_shifts = shifts.dim_size(0)
        comptime if target == "cpu":
            rope_shift_cpu(work, num_shifts=num_shifts, num_layers=num_layers)
        else:
            rope_shift_gpu(
                work, num_shifts=num_shifts, num_layers=num_layers, ctx=ctx
            )


@extensibility.register("kvcache.attention")
struct Attention:
    """Registers causal paged attention as `kvcache.attention`."""

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
        workspace: MutableInputTensor[dtype=DType.uint32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime params = KVCacheStaticParams(
            num_heads=num_kv_heads, head_size=head_dim
        )
        var cache = _collection[page_size, num_kv_heads, head_dim](
            kv_blocks, cache_lengths, lookup_table, max_lengths
        )
        var keys = cache.get_key_cache(Int(layer))
        var values = cache.get_value_cache(Int(layer))
        comptime in_use = RulesInUse(
            window=has_window, sinks=has_sinks, softcap=has_softcap
        )
        var rules = AttentionRules[in_use](
            scale,
            window=Int(window),
            sink_tokens=Int(sink_tokens),
            softcap=softcap,
            sinks=_read(sinks),
        )
        var inputs = AttentionInputs[
            dtype, params, page_size, num_q_heads, in_use
        ](
            _result(output),
            _read(queries),
            keys,
            values,
            _batch(input_row_offsets),
            rules,
        )
        comptime if target == "cpu":
            attention_cpu(inputs)
        else:
            attend_gpu(
                inputs,
                total_tokens=queries.dim_size(0),
                workspace=_write(workspace),
                workspace_length=workspace.dim_size(0),
                ctx=ctx,
            )


@extensibility.register("kvcache.attention_max")
struct AttentionMax:
    """Registers MAX's own attention kernels as `kvcache.attention_max`."""

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
    ](
        output: OutputTensor[dtype=dtype, rank=3, ...],
        queries: InputTensor[dtype=dtype, rank=3, ...],
        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],
        input_row_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
        lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
        max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        scale: Float32,
        ctx: DeviceContext,
    ) raises:
        var cache = _collection[page_size, num_kv_heads, head_dim](
            kv_blocks, cache_lengths, lookup_table, max_lengths
        )
        attention_max[target, num_q_heads](
            _result(output),
            _read(queries),
            cache.get_key_cache(Int(layer)),
            cache.get_value_cache(Int(layer)),
            _batch(input_row_offsets),
            scale,
            queries.dim_size(0),
            ctx,
        )
