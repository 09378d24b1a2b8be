"""Managers of quantised pages: scales are fed, copied and swapped with them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef

from host_contents import check_contents_come_back
from kvcache import KVCacheParams, PagedKVCacheManager, RaggedKVCacheInputs
from kvcache.core.interface import Move
from kvcache.errors import NotOfferedError
from kvcache.manager.device import DevicePool
from kvcache.manager.moving import Run
from kvcache.manager.quantized_inputs import QuantizedKVCacheInputs
from kvcache.ops import CacheInputTypes
from kvcache.quantization import Granularity, Quantization
from managers import HOST, claimed, make, make_replicas, pages

TENSOR = Quantization(granularity=Granularity.TENSOR)
HEAD = Quantization(granularity=Granularity.HEAD)
TOKEN = Quantization(group_size=8)
INT8: Mapping[str, Any] = {"dtype": "int8", "quantization": TOKEN}
GRANULARITIES = pytest.mark.parametrize("quantization", [TENSOR, HEAD, TOKEN])


def scales_of(inputs: RaggedKVCacheInputs) -> Buffer:
    assert isinstance(inputs, QuantizedKVCacheInputs)
    return inputs.scales


def write(inputs: RaggedKVCacheInputs, page: int, number: int) -> None:
    """Fills a page and its scales."""
    inputs.blocks.to_numpy()[page] = number
    scales_of(inputs).to_numpy()[page] = number / 8


def holds(inputs: RaggedKVCacheInputs, page: int, number: int) -> bool:
    """Returns whether `write` was the last to write a page."""
    codes = inputs.blocks.to_numpy()[page]
    scales = scales_of(inputs).to_numpy()[page]
    return bool((codes == number).all() and (scales == number / 8).all())


@GRANULARITIES
def test_fetch_has_the_scales_behind_the_seeds_four(
    quantization: Quantization,
) -> None:
    manager = make(kind={"dtype": "int8", "quantization": quantization})
    request = claimed(manager, 20)

    (inputs,) = manager.fetch([request])

    assert isinstance(inputs, RaggedKVCacheInputs)
    blocks, lengths, table, longest, scales = inputs
    assert inputs.blocks is blocks
    assert scales_of(inputs) is scales
    assert (blocks.dtype, scales.dtype) == (DType.int8, DType.float32)
    expected = quantization.scales_per_page(
        page_size=16, num_kv_heads=2, head_dim=8
    )
    assert tuple(scales.shape) == (11, 2, 3, *expected)
    assert not scales.to_numpy().any()
    assert lengths.to_numpy().tolist() == [0]
    assert table.to_numpy()[0, :2].tolist() == pages(manager, request)
    assert longest.to_numpy().tolist() == [[20, 20]]
    assert manager.fetch([request])[0][4] is scales


@GRANULARITIES
def test_symbols_are_the_types_of_the_kernels(
    quantization: Quantization,
) -> None:
    manager = make(kind={"dtype": "int8", "quantization": quantization})
    (symbols,) = manager.input_symbols()
    types = CacheInputTypes(
        dtype=DType.int8,
        num_layers=3,
        page_size=16,
        num_kv_heads=2,
        head_dim=8,
        device=DeviceRef.CPU(),
        quantization=quantization,
        compute_dtype=DType.bfloat16,
    )
    assert list(symbols) == list(types)
    assert len(symbols) == len(types) == 5


def test_a_step_on_keeps_the_scales() -> None:
    manager = make(kind=INT8)
    request = claimed(manager, 20)
    inputs = manager.fetch([request], num_steps=2)

    class Step:
        input_row_offsets = Buffer.from_numpy(np.array([0, 20], np.uint32))

    (after,) = manager.increment_cache_lengths(inputs, Step())

    assert isinstance(after, QuantizedKVCacheInputs)
    assert after.scales is scales_of(inputs[0])
    assert after.cache_lengths.to_numpy().tolist() == [20]
    assert "scales=" in repr(after)
    assert after._make(after) == after


@GRANULARITIES
def test_memory_counts_the_scales(quantization: Quantization) -> None:
    kind = {"dtype": "int8", "quantization": quantization}
    manager = make(num_pages=7, kind=kind)
    assert manager.total_num_pages == 7
    (inputs,) = manager.fetch([])
    size = sum(
        int(np.prod(each.shape[1:])) * each.dtype.size_in_bytes
        for each in (inputs.blocks, scales_of(inputs))
    )
    assert size == manager.params.bytes_per_page(3)


@GRANULARITIES
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "float8_e5m2"])
def test_copies_take_scales_along(
    dtype: str, quantization: Quantization
) -> None:
    params = KVCacheParams(
        dtype, 2, 16, page_size=16, quantization=quantization
    )
    one, two = (
        DevicePool(
            params,
            4,
            num_layers=1,
            page_size=16,
            device=HOST,
            num_host_pages=2,
        )
        for _ in range(2)
    )
    assert one.scales is not None
    assert two.scales is not None
    one.blocks.view(DType.uint8).to_numpy()[1] = 5
    one.scales.to_numpy()[1] = 0.5
    one.copy_runs(Move.COPY, [Run(1, 3, 1)])
    one.copy_runs(Move.OFFLOAD, [Run(3, 4, 1)])
    one.copy_runs(Move.ONLOAD, [Run(4, 0, 1)])
    two.copy_from(one, [0], [2])
    assert first_of(one.blocks.view(DType.uint8)) == [5, 5, 0, 5, 0]
    assert first_of(one.scales) == [0.5, 0.5, 0, 0.5, 0]
    assert first_of(two.blocks.view(DType.uint8)) == [0, 0, 5, 0, 0]
    assert first_of(two.scales) == [0, 0, 0.5, 0, 0]


def first_of(pool: Buffer) -> list[float]:
    """Returns the number that fills each page."""
    pages = pool.to_numpy().reshape(pool.shape[0], -1)
    assert (pages == pages[:, :1]).all()
    return list(pages[:, 0])


@GRANULARITIES
def test_contents_and_scales_come_back_from_the_host(
    quantization: Quantization,
) -> None:
    check_contents_come_back(HOST, dtype="int8", quantization=quantization)


def serve(
    manager: PagedKVCacheManager, prompt: list[int], **fields: Any
) -> Any:
    """Serves a prompt; returns what was found, its inputs and its pages."""
    request = claimed(manager, prompt, **fields)
    assert manager.maybe_reserve(request)
    hit = request.tokens.processed_length
    inputs = manager.fetch([request])
    held = pages(manager, request)
    request.update(7)
    return request, hit, inputs, held


def test_a_page_that_is_copied_on_write_has_its_scales() -> None:
    manager = make(kind=INT8, min_partial_hit=4)
    request, _, (inputs,), held = serve(manager, list(range(33)))
    for number, page in enumerate(held):
        write(inputs, page, 3 + number)
    manager.step([request])
    manager.release(request.request_id)

    fork = [*range(24), *range(100, 120)]
    request, hit, (inputs,), held = serve(manager, fork)

    assert hit == 24
    assert holds(inputs, held[0], 3)
    assert holds(inputs, held[1], 4)


def test_a_prefix_of_another_replica_comes_with_its_scales() -> None:
    manager = make_replicas(2, kind=INT8)
    request, _, inputs, held = serve(manager, list(range(33)), on=0)
    write(inputs[0], held[0], 3)
    write(inputs[0], held[1], 4)
    manager.step([request])

    request, hit, inputs, held = serve(manager, list(range(33)), on=1)

    assert hit == 32
    assert holds(inputs[1], held[0], 3)
    assert holds(inputs[1], held[1], 4)


def test_maxs_graphs_are_told_that_they_cannot_read_them() -> None:
    manager = make(kind=INT8)
    (inputs,) = manager.fetch([])
    with pytest.raises(NotOfferedError, match="got quantised ones"):
        inputs.per_device()
    with pytest.raises(NotOfferedError, match="MAX's graphs read"):
        _ = manager.max_params
