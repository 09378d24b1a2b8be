"""Caches whose blocks have summaries, as graphs take them."""

from typing import Any

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, Module

from kernels.host_graphs import SUMMARISED
from kernels.models import CompiledKernels
from kvcache import ops, reference
from kvcache.graphs.attention import attention_graph
from kvcache.graphs.gather import gather_graph
from kvcache.graphs.rope_store import rope_store_graph
from kvcache.graphs.store import store_graph
from kvcache.manager import RaggedKVCacheInputs
from kvcache.quantization import Granularity, Quantization
from kvcache.summaries import Summaries
from managers import claimed, make

CPU = DeviceRef.CPU()
SUMMARIES: Summaries = SUMMARISED["summaries"]
INT8 = {
    "dtype": DType.int8,
    "quantization": Quantization(),
    "compute_dtype": DType.float32,
}
HEAD = {**INT8, "quantization": Quantization(granularity=Granularity.HEAD)}
KINDS = pytest.mark.parametrize("kind", [{}, INT8, HEAD])


def types(**changes: Any) -> ops.CacheInputTypes:
    return ops.CacheInputTypes(**{**SUMMARISED, **changes})


@KINDS
def test_fields_come_last(kind: dict[str, Any]) -> None:
    cache, bare = types(**kind), types(**kind, summaries=None)
    assert list(cache)[:-2] == list(bare)
    assert list(cache)[-2:] == list(cache.kv_summaries)
    assert len(cache) == len(list(cache)) == len(bare) + 2
    assert [pool.dtype for pool in cache.kv_summaries] == [
        DType.float32,
        DType.float16,
    ]
    for pool, rows in zip(cache.kv_summaries, (1, 2), strict=True):
        assert pool.shape == ["total_num_pages", 3, 2, 2, rows, 8]
        assert pool.device == CPU


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"page_size": 16, "summaries": 32}, "page_size that 32 divides"),
        (
            {"is_mla": True, "num_kv_heads": 1},
            "summaries must be None for latents, got Summaries",
        ),
    ],
)
def test_other_pages_have_none(changes: dict[str, Any], message: str) -> None:
    if changes.get("summaries"):
        changes = {**changes, "summaries": Summaries(32, SUMMARIES.fields)}
    with pytest.raises(ValueError, match=message):
        types(**changes)


@KINDS
def test_inputs_tell_scales_from_summaries(kind: dict[str, Any]) -> None:
    cache = types(**kind)
    with Graph("of", input_types=[*cache]) as graph:
        inputs = ops.CacheInputs.of(graph.inputs)
        assert (inputs.kv_scales is None) == (not kind)
        assert [each.type for each in inputs.summaries] == [*cache.kv_summaries]
        assert [each.type for each in inputs.values] == [*cache]
        assert inputs.block_size == 16
        assert len(inputs.pools) == 1 + bool(kind)
        graph.output()


@KINDS
def test_inputs_may_lack_summaries(kind: dict[str, Any]) -> None:
    cache = types(**kind, summaries=None)
    with Graph("lack", input_types=[*cache]) as graph:
        inputs = ops.CacheInputs.of(graph.inputs)
        assert inputs.summaries == ()
        assert [each.type for each in inputs.values] == [*cache]
        with pytest.raises(ValueError, match="with summaries, got none"):
            _ = inputs.block_size
        graph.output()


@KINDS
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (["total_num_pages", 3, 2, 2, 1], DType.float32),
        (["total_num_pages", 3, 2, 2, 1, 8], DType.int8),
        (["total_num_pages", 3, 2, 2, 1, 8], DType.float64),
        (["others", 3, 2, 2, 1, 8], DType.float32),
        (["total_num_pages", 2, 2, 2, 1, 8], DType.float32),
        (["total_num_pages", 3, 4, 2, 1, 8], DType.float32),
        (["total_num_pages", 3, 3, 2, 1, 8], DType.float32),
        (["total_num_pages", 3, "blocks", 2, 1, 8], DType.float32),
        (["total_num_pages", 3, 2, 1, 1, 8], DType.float32),
        (["total_num_pages", 3, 2, 2, 1, "columns"], DType.float32),
        (["total_num_pages", 3, 1, 2, 1, 8], DType.float32),
    ],
)
def test_other_pools_are_refused(
    kind: dict[str, Any], shape: list[str | int], dtype: DType
) -> None:
    """The last one fits, but not the blocks of the others."""
    other = BufferType(dtype, shape, CPU)
    with Graph("other", input_types=[*types(**kind), other]) as graph:
        with pytest.raises(ValueError, match="a summary must be float32, bf"):
            ops.CacheInputs.of(graph.inputs)
        graph.output()


def test_latents_have_none() -> None:
    latents = types(is_mla=True, num_kv_heads=1, summaries=None)
    pool = BufferType(DType.float32, ["total_num_pages", 3, 2, 1, 1, 8], CPU)
    with Graph("latents", input_types=[*latents, pool]) as graph:
        with pytest.raises(ValueError, match="latents have no summaries, got"):
            ops.CacheInputs.of(graph.inputs)
        graph.output()


@KINDS
def test_every_operation_takes_such_a_cache(kind: dict[str, Any]) -> None:
    cache, module = types(**kind), Module()
    store_graph(cache, module=module)
    rope_store_graph(cache, num_q_heads=4, module=module)
    attention_graph(cache, num_q_heads=4, scale=1.0, module=module)
    gather_graph(cache, module=module)


def test_kernels_leave_summaries_alone(
    compiled_kernels: CompiledKernels,
) -> None:
    """Two steps of two requests, with NaN in the place of all summaries."""
    models = compiled_kernels.models
    manager = make(page_size=32, kind={"summaries": SUMMARIES})
    rng = np.random.default_rng(3)
    batch = [claimed(manager, 40), claimed(manager, range(100, 103))]
    for counts in ((40, 3), (1, 1)):
        (inputs,) = manager.fetch(batch)
        for pool in inputs.summaries:
            pool.to_numpy()[:] = np.nan
        ends = np.cumsum([0, *counts]).astype(np.uint32)
        keys, values = rng.normal(size=(2, ends[-1], 2, 8)).astype(np.float32)
        queries = rng.normal(size=(ends[-1], 4, 8)).astype(np.float32)
        before = inputs.blocks.to_numpy().copy()
        models["summarised_store"].execute(
            *inputs, *buffers(keys, values, ends)
        )
        tables = tables_of(inputs)
        reference.store(before, keys, values, ends, *tables, layer=1)
        np.testing.assert_array_equal(inputs.blocks.to_numpy(), before)

        (output,) = models["summarised_attention"].execute(
            *inputs, *buffers(queries, ends)
        )
        wanted = reference.attention(
            before, queries, ends, *tables, layer=1, scale=0.3
        )
        np.testing.assert_allclose(output.to_numpy(), wanted, atol=1e-5)
        for pool in inputs.summaries:
            assert np.isnan(pool.to_numpy()).all()
        for request in batch:
            request.update(7)
        manager.step(batch)


def buffers(*arrays: Any) -> list[Buffer]:
    return [Buffer.from_numpy(array) for array in arrays]


def tables_of(inputs: RaggedKVCacheInputs) -> tuple[Any, Any]:
    return inputs.cache_lengths.to_numpy(), inputs.lookup_table.to_numpy()
