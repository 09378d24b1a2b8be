"""Managers whose blocks have summaries: fed, counted, copied and swapped."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from max import tree
from max.driver import Buffer
from max.dtype import DType
from max.graph import DeviceRef

from fake_model import FakeRunner
from host_contents import check_contents_come_back
from kvcache import KVCacheParams, PagedKVCacheManager, RaggedKVCacheInputs
from kvcache.core.interface import Move
from kvcache.errors import (
    InsufficientMemoryError,
    InvalidParamsError,
    NotOfferedError,
)
from kvcache.manager.device import DevicePool
from kvcache.manager.moving import Run
from kvcache.manager.quantized_inputs import QuantizedKVCacheInputs
from kvcache.manager.stores import page_parts
from kvcache.ops import CacheInputTypes
from kvcache.planning.formats import KVFormat
from kvcache.planning.shape import ModelShape
from kvcache.quantization import Quantization
from kvcache.serve import ServingLoop
from kvcache.summaries import Summaries, SummaryField
from managers import HOST, claimed, make, make_replicas, pages

CENTROID = SummaryField("centroid", 1, 8)
ENVELOPE = SummaryField("envelope", 2, 8, "float16")
NORM = SummaryField("norm", 1, 1, "float32")
SUMMARIES = Summaries(16, (CENTROID, ENVELOPE, NORM))
PLAIN: Mapping[str, Any] = {"summaries": SUMMARIES}
INT8: Mapping[str, Any] = {
    **PLAIN,
    "dtype": "int8",
    "quantization": Quantization(),
}
KINDS = pytest.mark.parametrize("kind", [PLAIN, INT8], ids=["plain", "int8"])


def size_of(buffer: Buffer) -> int:
    return int(np.prod(buffer.shape)) * buffer.dtype.size_in_bytes


def pools_of(inputs: RaggedKVCacheInputs) -> list[Buffer]:
    return [inputs.blocks, *inputs[4:]]


@KINDS
def test_fetch_has_a_buffer_for_each_field_at_its_end(
    kind: Mapping[str, Any],
) -> None:
    manager = make(page_size=32, kind=kind)
    request = claimed(manager, 20)

    (inputs,) = manager.fetch([request])

    assert isinstance(inputs, RaggedKVCacheInputs)
    has_scales = isinstance(inputs, QuantizedKVCacheInputs)
    assert has_scales == (kind is INT8)
    assert len(inputs) == 4 + has_scales + 3
    assert isinstance(inputs.summaries, tuple)
    assert list(inputs.summaries) == list(inputs[-3:])
    assert [pool.dtype.name for pool in inputs.summaries] == [
        "bfloat16",
        "float16",
        "float32",
    ]
    assert [tuple(pool.shape) for pool in inputs.summaries] == [
        (11, 3, 2, 2, 1, 8),
        (11, 3, 2, 2, 2, 8),
        (11, 3, 2, 2, 1, 1),
    ]
    for pool in inputs.summaries[1:]:
        assert not pool.to_numpy().any()
    (again,) = manager.fetch([request])
    assert again.summaries == inputs.summaries
    if isinstance(inputs, QuantizedKVCacheInputs):
        assert inputs.scales is inputs[4]
        assert inputs.scales.shape[0] == 11


@KINDS
def test_fields_have_names_of_their_own(kind: Mapping[str, Any]) -> None:
    (inputs,) = make(kind=kind).fetch([])
    named: Any = inputs
    scales = ("scales",) if kind is INT8 else ()
    assert type(inputs)._fields == (
        *RaggedKVCacheInputs._fields,
        *scales,
        "summary_centroid",
        "summary_envelope",
        "summary_norm",
    )
    assert named.summary_envelope is inputs.summaries[1]
    assert tuple(inputs._asdict().values()) == tuple(inputs)
    assert "summary_norm=" in repr(inputs)
    assert repr(inputs).startswith("Summarised")

    changed = inputs._replace(cache_lengths=inputs.max_lengths)
    assert type(changed) is type(inputs)
    assert changed.cache_lengths is inputs.max_lengths
    assert changed.summaries == inputs.summaries
    assert type(inputs)._make(inputs) == inputs == copy.copy(inputs)
    with pytest.raises(TypeError):
        named._replace(summary_other=None)
    with pytest.raises(TypeError, match="summary_norm, got 4 values"):
        type(inputs)._make(inputs[:4])


def test_other_caches_have_none() -> None:
    for kind in ({}, {"dtype": "int8", "quantization": Quantization()}):
        manager = make(kind=kind)
        (inputs,), (symbols,) = manager.fetch([]), manager.input_symbols()
        assert inputs.summaries == symbols.summaries == ()


@KINDS
def test_symbols_are_the_types_of_the_kernels(kind: Mapping[str, Any]) -> None:
    manager = make(page_size=32, kind=kind)
    (symbols,) = manager.input_symbols()
    types = CacheInputTypes(
        dtype=DType.int8 if kind is INT8 else DType.float32,
        num_layers=3,
        page_size=32,
        num_kv_heads=2,
        head_dim=8,
        device=DeviceRef.CPU(),
        quantization=kind.get("quantization"),
        compute_dtype=DType.float32,
        summaries=SUMMARIES,
    )
    assert list(symbols) == list(types)
    assert len(symbols) == len(types) == len(manager.fetch([])[0])
    assert symbols.summaries == types.kv_summaries
    assert list(types)[-3:] == list(types.kv_summaries)
    assert type(symbols)._fields == type(manager.fetch([])[0])._fields


@KINDS
def test_a_step_on_keeps_every_buffer(kind: Mapping[str, Any]) -> None:
    manager = make(kind=kind)
    inputs = manager.fetch([claimed(manager, 20)], num_steps=2)

    class Step:
        input_row_offsets = Buffer.from_numpy(np.array([0, 20], np.uint32))

    (after,) = manager.increment_cache_lengths(inputs, Step())

    assert type(after) is type(inputs[0])
    for mine, before in zip(pools_of(after), pools_of(inputs[0]), strict=True):
        assert mine is before
    assert after.cache_lengths.to_numpy().tolist() == [20]


def test_a_running_batch_is_fed_with_them() -> None:
    manager = make(kind=PLAIN)
    batch = manager.open_batch()
    batch.admit([np.arange(20)])
    (inputs,) = batch.inputs()
    assert inputs.summaries == manager.fetch([])[0].summaries


@KINDS
@pytest.mark.parametrize("page_size", [16, 64])
def test_memory_counts_them(kind: Mapping[str, Any], page_size: int) -> None:
    manager = make(num_pages=7, page_size=page_size, host_pages=5, kind=kind)
    assert (manager.total_num_pages, manager.total_num_host_pages) == (7, 5)
    (inputs,) = manager.fetch([])
    size = sum(size_of(pool) // 8 for pool in pools_of(inputs))
    assert size == manager.params.bytes_per_page(3)
    assert manager.host_byte_count().total == 5 * size


def test_a_page_without_room_for_them_is_too_large() -> None:
    params = KVCacheParams("float32", 2, 8, page_size=16, summaries=SUMMARIES)
    whole = params.bytes_per_page(3)
    bare = replace(params, summaries=None).bytes_per_page(3)
    # 3 layers of 2 heads: 8 and 16 elements of 2 bytes, and one of 4.
    assert whole - bare == 3 * 2 * (16 + 32 + 4)
    for memory in (bare, whole - 1):
        with pytest.raises(InsufficientMemoryError, match=f"least {whole} "):
            make(kind=PLAIN, available_cache_memory=memory)


def test_heads_are_split_over_the_devices_of_a_replica() -> None:
    manager = make_replicas(1, 2, page_size=32, kind=PLAIN)
    inputs = manager.fetch([])
    assert len(inputs) == 2
    for each in inputs:
        assert tuple(each.summaries[1].shape) == (11, 3, 2, 1, 2, 8)
    size = sum(size_of(p) // 11 for each in inputs for p in pools_of(each))
    assert size == manager.params.bytes_per_page(3)


def test_a_plan_counts_them() -> None:
    shape = ModelShape(num_layers=3, num_kv_heads=2, head_dim=8)
    bare, kept = (
        shape.params(KVFormat("float32", summaries=each), page_size=16)
        for each in (None, SUMMARIES)
    )
    assert kept.summaries is SUMMARIES
    assert kept.bytes_per_page(3) == bare.bytes_per_page(3) + 6 * 52
    assert kept.bytes_per_token(3) == bare.bytes_per_token(3)


@KINDS
def test_a_serving_loop_counts_them_in_its_pages(
    kind: Mapping[str, Any],
) -> None:
    manager = make(kind=kind)
    runner = FakeRunner(num_pages=10, page_size=16, vocab_size=11)
    shape = ServingLoop(manager, runner).stats.shape
    assert shape.bytes_per_page == manager.params.bytes_per_page(3)
    assert shape.bytes_per_token == manager.params.bytes_per_token(3)


def test_a_page_size_of_the_manager_alone_is_checked_as_well() -> None:
    params = KVCacheParams(
        "float32",
        2,
        8,
        cache_strategy="model_default",  # type: ignore[arg-type]
        summaries=Summaries(64, (CENTROID,)),
    )
    with pytest.raises(InvalidParamsError, match="blocks of 64 tokens fill"):
        params.bytes_per_page(3, 32)
    assert params.bytes_per_page(3, 128) > 0


def fill(pools: list[Buffer], page: int) -> None:
    """Writes other bytes into each pool's page."""
    for number, pool in enumerate(pools, 1):
        pool.view(DType.uint8).to_numpy()[page] = number


def holds(pools: list[Buffer], page: int) -> bool:
    """Returns whether `fill` was the last to write a page."""
    return all(
        bool((pool.view(DType.uint8).to_numpy()[page] == number).all())
        for number, pool in enumerate(pools, 1)
    )


def pool_of(kind: Mapping[str, Any], **fields: Any) -> DevicePool:
    params = replace(KVCacheParams("float32", 2, 8, page_size=32), **kind)
    fields = {"num_host_pages": 2, **fields}
    return DevicePool(
        params, 4, num_layers=1, page_size=32, device=HOST, **fields
    )


def all_pools(pool: DevicePool) -> list[Buffer]:
    scales = [] if pool.scales is None else [pool.scales]
    return [pool.blocks, *scales, *pool.summaries]


@KINDS
def test_every_copy_takes_them_along(kind: Mapping[str, Any]) -> None:
    one, two = pool_of(kind), pool_of(kind)
    mine, others = all_pools(one), all_pools(two)
    fill(mine, 1)
    one.copy_runs(Move.COPY, [Run(1, 3, 1)])
    one.copy_runs(Move.OFFLOAD, [Run(3, 5, 1)])
    one.copy_runs(Move.ONLOAD, [Run(5, 0, 1)])
    two.copy_from(one, [0], [2])
    assert [holds(mine, page) for page in range(5)] == [1, 1, 0, 1, 0]
    assert [holds(others, page) for page in range(5)] == [0, 0, 1, 0, 0]


class Launches:
    """Takes pages of a multiple of 16 bytes, and copies them on the host."""

    def __init__(self) -> None:
        self.asked: list[tuple[Move, str, list[Run]]] = []

    @staticmethod
    def takes(pages: Buffer) -> bool:
        return size_of(pages) // pages.shape[0] % 16 == 0

    def copy(
        self, kind: Move, pages: Buffer, host_pages: Buffer, chosen: list[Run]
    ) -> None:
        self.asked.append((kind, pages.dtype.name, chosen))
        own, other = (
            each.view(DType.uint8).to_numpy() for each in (pages, host_pages)
        )
        for run in chosen:
            if kind is Move.OFFLOAD:
                other[run.target] = own[run.source]
            else:
                own[run.target] = other[run.source]


def test_fields_of_odd_sizes_do_not_slow_the_others_down() -> None:
    """One head's norm of a block has 4 bytes, 8 of a page's two."""
    launches: Any = Launches()
    kind = {**PLAIN, "n_kv_heads": 1}
    pool = pool_of(kind, transfer=launches)
    pools = all_pools(pool)
    fill(pools, 1)
    pool.copy_runs(Move.OFFLOAD, [Run(1, 5, 1)])
    pool.copy_runs(Move.ONLOAD, [Run(5, 2, 1)])
    assert holds(pools, 2)
    assert launches.asked == [
        (kind, name, [run])
        for kind, run in (
            (Move.OFFLOAD, Run(1, 1, 1)),
            (Move.ONLOAD, Run(1, 2, 1)),
        )
        for name in ("float32", "bfloat16", "float16")
    ]


@KINDS
def test_contents_come_back_from_the_host(kind: Mapping[str, Any]) -> None:
    fields = (replace(CENTROID, dtype="float32"), ENVELOPE, NORM)
    check_contents_come_back(
        HOST, **{**kind, "summaries": Summaries(16, fields)}
    )


def serve(
    manager: PagedKVCacheManager, prompt: list[int], **fields: Any
) -> Any:
    """Serves a prompt; returns what was found, its pools and its pages."""
    request = claimed(manager, prompt, **fields)
    assert manager.maybe_reserve(request)
    hit = request.tokens.processed_length
    inputs = manager.fetch([request])
    request.update(7)
    return request, hit, [pools_of(each) for each in inputs]


def test_a_page_that_is_copied_on_write_has_them() -> None:
    manager = make(page_size=32, kind=PLAIN, min_partial_hit=4)
    request, _, (pools,) = serve(manager, list(range(65)))
    for page in pages(manager, request):
        fill(pools, page)
    manager.step([request])
    manager.release(request.request_id)

    branch = [*range(56), *range(100, 120)]
    request, hit, (pools,) = serve(manager, branch)

    assert hit == 56
    held = pages(manager, request)
    assert [holds(pools, page) for page in held] == [1, 1, 0]


def test_a_prefix_of_another_replica_comes_with_them() -> None:
    manager = make_replicas(2, kind=PLAIN)
    request, _, (pools, _) = serve(manager, list(range(33)), on=0)
    for page in pages(manager, request):
        fill(pools, page)
    manager.step([request])

    request, hit, (_, pools) = serve(manager, list(range(33)), on=1)

    assert hit == 32
    held = pages(manager, request)
    assert [holds(pools, page) for page in held] == [1, 1, 0]


def test_maxs_graphs_read_the_pages_alone() -> None:
    manager = make(kind=PLAIN)
    request = claimed(manager, 20)
    (inputs,) = manager.fetch([request])
    theirs, bare = inputs.per_device(), make().fetch([])[0].per_device()
    assert theirs.kv_blocks is inputs.blocks
    assert len(tree.leaves(theirs)) == len(tree.leaves(bare))
    assert manager.max_params.page_size == 16
    (first,) = manager.runtime_inputs([[request]])
    assert first.kv_blocks is inputs.blocks


def test_maxs_graphs_do_not_read_codes_with_them_either() -> None:
    (inputs,) = make(kind=INT8).fetch([])
    with pytest.raises(NotOfferedError, match="got quantised ones"):
        inputs.per_device()


def test_leaves_come_after_pages_and_scales() -> None:
    params = KVCacheParams("int8", 4, 8, page_size=32, n_devices=2)
    params = replace(params, **INT8)
    assert page_parts(params, 3, 32) == [
        ((2, 3, 32, 2, 8), DType.int8),
        ((2, 3, 32, 2, 1), DType.float32),
        ((3, 2, 2, 1, 8), DType.bfloat16),
        ((3, 2, 2, 2, 8), DType.float16),
        ((3, 2, 2, 1, 1), DType.float32),
    ]
