"""Managers of latents: pages of one row a token, fed, shared and swapped."""

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
from kvcache.manager.device import DevicePool
from kvcache.manager.moving import Run
from kvcache.ops import CacheInputTypes
from kvcache.quantization import Quantization
from managers import HOST, claimed, make, make_replicas, pages

LATENTS: Mapping[str, Any] = {
    "n_kv_heads": 16,
    "head_dim": 24,
    "is_mla": True,
}
PAGE = (1, 3, 16, 1, 24)
CODES: Mapping[str, Any] = {
    **LATENTS,
    "dtype": "int8",
    "quantization": Quantization(group_size=8),
}


def test_a_page_has_one_row_a_token_and_layer() -> None:
    manager = make(num_pages=7, kind=LATENTS)
    (inputs,) = manager.fetch([])
    assert manager.total_num_pages == 7
    assert tuple(inputs.blocks.shape) == (8, *PAGE)
    assert manager.params.bytes_per_token(3) == 3 * 24 * 4
    assert manager.params.bytes_per_page(3) == np.prod(PAGE) * 4


def test_deepseek_s_latents_take_as_much_as_its_paper_says() -> None:
    heads, head_dim, layers = 128, 128, 61
    latents, plain = (
        KVCacheParams(
            "bfloat16", heads, dim, is_mla=is_mla, page_size=128
        ).bytes_per_token(layers)
        for dim, is_mla in ((576, True), (head_dim, False))
    )
    assert latents == 61 * 576 * 2
    # As much as grouped queries with 2.25 key-value heads.
    assert latents / plain == 2.25 / heads


def test_symbols_are_the_types_of_the_kernels() -> None:
    (symbols,) = make(kind=LATENTS).input_symbols()
    types = CacheInputTypes(
        dtype=DType.float32,
        num_layers=3,
        page_size=16,
        num_kv_heads=1,
        head_dim=24,
        device=DeviceRef.CPU(),
        is_mla=True,
    )
    assert list(symbols) == list(types)


def test_codes_have_scales_beside_them() -> None:
    manager = make(num_pages=7, kind=CODES)
    (inputs,), (symbols,) = manager.fetch([]), manager.input_symbols()
    types = CacheInputTypes(
        dtype=DType.int8,
        num_layers=3,
        page_size=16,
        num_kv_heads=1,
        head_dim=24,
        device=DeviceRef.CPU(),
        quantization=CODES["quantization"],
        compute_dtype=DType.float32,
        is_mla=True,
    )
    assert list(symbols) == list(types)
    assert manager.total_num_pages == 7
    *_, scales = inputs
    assert tuple(inputs.blocks.shape) == (8, *PAGE)
    assert tuple(scales.shape) == (8, 1, 3, 16, 1, 3)
    assert manager.params.bytes_per_page(3) == np.prod(PAGE) * (1 + 4 / 8)


def test_fetch_says_where_the_latents_lie() -> None:
    manager = make(kind=LATENTS)
    request = claimed(manager, 20)
    (inputs,) = manager.fetch([request], num_steps=2)
    blocks, lengths, table, longest = inputs
    assert blocks is inputs.blocks
    assert lengths.to_numpy().tolist() == [0]
    assert table.to_numpy()[0, :2].tolist() == pages(manager, request)
    assert longest.to_numpy().tolist() == [[20, 20], [1, 21]]


def test_copies_take_whole_pages() -> None:
    params = KVCacheParams("float32", 16, 24, is_mla=True, page_size=16)
    one, two = (
        DevicePool(
            params,
            4,
            num_layers=3,
            page_size=16,
            device=HOST,
            num_host_pages=2,
        )
        for _ in range(2)
    )
    one.blocks.to_numpy()[1] = 5
    one.copy_runs(Move.COPY, [Run(1, 3, 1)])
    one.copy_runs(Move.OFFLOAD, [Run(3, 4, 1)])
    one.copy_runs(Move.ONLOAD, [Run(4, 0, 1)])
    two.copy_from(one, [0], [2])
    assert first_of(one.blocks) == [5, 5, 0, 5, 0]
    assert first_of(two.blocks) == [0, 0, 5, 0, 0]


def first_of(pool: Buffer) -> list[float]:
    """Returns the number that fills each page."""
    numbers = pool.to_numpy().reshape(pool.shape[0], -1)
    assert (numbers == numbers[:, :1]).all()
    return list(numbers[:, 0])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_contents_come_back_from_the_host(dtype: str) -> None:
    check_contents_come_back(HOST, dtype=dtype, **LATENTS)


def test_codes_come_back_from_the_host_with_their_scales() -> None:
    check_contents_come_back(HOST, **CODES)


def serve(
    manager: PagedKVCacheManager, prompt: list[int], **fields: Any
) -> tuple[Any, int, list[RaggedKVCacheInputs], list[int]]:
    """Serves a prompt; returns what was found, its inputs and its pages."""
    request = claimed(manager, prompt, **fields)
    assert manager.maybe_reserve(request)
    hit = request.tokens.processed_length
    inputs = manager.fetch([request])
    held = pages(manager, request)
    request.update(7)
    return request, hit, inputs, held


def test_a_prefix_is_found_with_its_latents() -> None:
    manager = make(kind=LATENTS)
    request, _, (inputs,), held = serve(manager, list(range(33)))
    inputs.blocks.to_numpy()[held] = 3
    manager.step([request])

    _, hit, (inputs,), shared = serve(manager, [*range(32), 100, 101])

    assert hit == 32
    assert shared[:2] == held[:2]
    assert inputs.cache_lengths.to_numpy().tolist() == [32]
    assert inputs.lookup_table.to_numpy()[0, :3].tolist() == shared


def test_a_page_that_is_copied_on_write_has_its_latents() -> None:
    manager = make(kind=LATENTS, min_partial_hit=4)
    request, _, (inputs,), held = serve(manager, list(range(33)))
    for number, page in enumerate(held):
        inputs.blocks.to_numpy()[page] = 3 + number
    manager.step([request])
    manager.release(request.request_id)

    fork = [*range(24), *range(100, 120)]
    _, hit, (inputs,), mine = serve(manager, fork)

    assert hit == 24
    assert mine[0] == held[0]
    assert mine[1] != held[1]
    assert (inputs.blocks.to_numpy()[mine[1]] == 4).all()


def test_a_prefix_of_another_replica_comes_with_its_latents() -> None:
    manager = make_replicas(2, shards=2, kind=LATENTS)
    request, _, inputs, held = serve(manager, list(range(33)), on=0)
    for shard in inputs[:2]:
        shard.blocks.to_numpy()[held[0]] = 3
        shard.blocks.to_numpy()[held[1]] = 4
    manager.step([request])

    request, hit, inputs, mine = serve(manager, list(range(33)), on=1)

    assert hit == 32
    for shard in inputs[2:]:
        assert tuple(shard.blocks.shape[1:]) == PAGE
        assert (shard.blocks.to_numpy()[mine[0]] == 3).all()
        assert (shard.blocks.to_numpy()[mine[1]] == 4).all()
