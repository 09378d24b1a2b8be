"""Replicas and shards on one device: who has what, and what spans several."""

from typing import Any

import numpy as np
import pytest
from max.dtype import DType

from kvcache import InsufficientPagesError, KVCacheMetrics, KVCacheParams
from kvcache.errors import (
    ClaimError,
    InsufficientMemoryError,
    InvalidParamsError,
    RequestStateError,
    RequestTooLargeError,
    UnknownReplicaError,
    UnknownRequestError,
)
from kvcache.manager import PagedKVCacheManager
from managers import HOST, claimed, compute, make_replicas, pages


def tables(inputs: Any) -> list[list[int]]:
    """The pages of each row, without padding."""
    table, null = inputs.lookup_table.to_numpy(), inputs.blocks.shape[0] - 1
    return [[page for page in row if page != null] for row in table.tolist()]


def test_rows_are_grouped_by_replica_and_keep_their_order() -> None:
    manager = make_replicas(3)
    lengths = [(20, 2), (5, 0), (40, 2), (17, 0)]
    batch = [claimed(manager, length, on=on) for length, on in lengths]
    for request in batch:
        assert manager.maybe_reserve(request, 2)
    first, second, third = manager.fetch(batch, 2)
    assert tables(first) == [[0], [1, 2]]
    assert tables(third) == [[0, 1], [2, 3, 4]]
    assert first.max_lengths.to_numpy().tolist() == [[17, 17], [1, 18]]
    assert third.max_lengths.to_numpy().tolist() == [[40, 40], [1, 41]]
    assert tuple(second.cache_lengths.shape) == (0,)
    assert tuple(second.lookup_table.shape) == (0, 16)
    assert second.max_lengths.to_numpy().tolist() == [[0, 0], [1, 1]]
    assert [manager.get_replica(request) for request in batch] == [2, 0, 2, 0]
    assert pages(manager, batch[2]) == [2, 3, 4]


def test_shards_have_their_own_heads_and_the_same_tables() -> None:
    manager = make_replicas(2, 2)
    assert manager.devices_per_replica == 2
    inputs = manager.fetch([claimed(manager, 20, on=1)])
    assert len(inputs) == 4
    for each in inputs:
        assert tuple(each.blocks.shape) == (11, 2, 3, 16, 1, 8)
    for one, two in (inputs[:2], inputs[2:]):
        assert one.cache_lengths is two.cache_lengths
        assert one.lookup_table is two.lookup_table
        assert one.max_lengths is two.max_lengths
    pools = [each.blocks.to_numpy() for each in inputs]
    for number, pool in enumerate(pools, 1):
        pool[0] = number
    assert [pool[0].max() for pool in pools] == [1, 2, 3, 4]
    assert not pools[0][1:].any()


def test_tensor_parallel_devices_are_one_replica() -> None:
    manager = make_replicas(1, 2)
    assert (manager.num_replicas, manager.devices_per_replica) == (1, 2)
    request = claimed(manager, 20)
    one, two = manager.fetch([request])
    assert one.blocks is not two.blocks
    assert manager.total_num_pages == 10
    assert manager.get_or_recommend_replica(request) == 0


def test_a_latent_is_held_by_each_shard() -> None:
    params = KVCacheParams(
        "float32", 16, 24, is_mla=True, page_size=16, n_devices=2
    )
    manager = PagedKVCacheManager(
        params, 1, 64, 2, [HOST] * 2, None, params.bytes_per_page(2), None, 16
    )
    for inputs in manager.fetch([]):
        assert tuple(inputs.blocks.shape) == (2, 1, 2, 16, 1, 24)


@pytest.mark.parametrize("short", [0, 1, 2])
def test_all_replicas_get_their_pages_or_none_does(short: int) -> None:
    manager = make_replicas(3, num_pages=2)
    holder = claimed(manager, 16, on=short)
    assert manager.maybe_reserve(holder)
    batch = [claimed(manager, 16, on=short) for _ in range(2)]
    batch += [claimed(manager, 32, on=(short + i) % 3) for i in (1, 2)]
    with pytest.raises(InsufficientPagesError, match="wanted 2 pages, 1 free"):
        manager.fetch(batch)
    assert [pages(manager, request) for request in batch] == [[]] * 4
    assert manager.metrics == KVCacheMetrics(input_tokens=16)
    manager.fetch(batch[1:])
    assert manager.num_free_blocks == 0


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_request_that_cannot_be_keeps_the_others_from_changing(
    culprit: int,
) -> None:
    manager = make_replicas(2, num_pages=2)
    fine = claimed(manager, 16, on=1 - culprit)
    large = claimed(manager, 33, on=culprit)
    with pytest.raises(RequestTooLargeError, match="wanted 3 pages"):
        manager.fetch([fine, large])
    assert pages(manager, fine) == []
    manager.fetch([fine])
    fine.update(7)
    large.tokens.skip_processing(5)
    with pytest.raises(RequestStateError, match="5 processed"):
        manager.step([fine, large])
    twin = claimed(manager, 17, on=1 - culprit)
    assert manager.adopt_prefix(twin) == 0  # Nothing of `fine` was committed.
    manager.step([fine])
    assert manager.adopt_prefix(twin) == 16


def test_claims_are_for_one_replica_each() -> None:
    manager = make_replicas(2, max_batch_size=5)
    with pytest.raises(ClaimError, match="replica_idx from 0 to 1, got None"):
        manager.external_claim("a")
    for replica in (2, -1):
        with pytest.raises(UnknownReplicaError, match=f"got {replica}"):
            manager.external_claim("a", replica)
    for name in "abc":
        manager.external_claim(name, 0)
    with pytest.raises(ClaimError, match="all 3 are claimed"):
        manager.external_claim("d", 0)
    with pytest.raises(ClaimError, match="'a' is already claimed"):
        manager.external_claim("a", 1)
    for name in "de":  # The remainder of 5 // 2 is not lost.
        manager.external_claim(name, 1)
    with pytest.raises(ClaimError, match="all 2 are claimed"):
        manager.external_claim("f", 1)
    assert not manager.contains("f")
    manager.release("a")
    manager.external_claim("f", 0)


def test_an_unclaimed_request_has_no_replica() -> None:
    manager = make_replicas(2)
    request = claimed(manager, 5, on=1)
    manager.release(request.request_id)
    for call in (
        manager.get_replica,
        manager.maybe_reserve,
        lambda r: manager.fetch([r]),
        lambda r: manager.step([r]),
        lambda r: manager.get_data_parallel_splits([r]),
        lambda r: manager.release(r.request_id),
    ):
        with pytest.raises(UnknownRequestError):
            call(request)


@pytest.mark.parametrize(
    ("replicas", "splits"),
    [
        ([], [0, 0, 0, 0]),
        ([0, 0, 2], [0, 2, 2, 3]),
        ([1], [0, 0, 1, 1]),
        ([0, 1, 2, 2], [0, 1, 2, 4]),
    ],
)
def test_splits_are_cumulative(replicas: list[int], splits: list[int]) -> None:
    manager = make_replicas(3)
    batch = [claimed(manager, 5, on=replica) for replica in replicas]
    found = manager.get_data_parallel_splits(batch)
    assert found.dtype == DType.int64
    assert found.device.is_host
    assert found.to_numpy().tolist() == splits


def test_splits_of_a_batch_out_of_order_are_an_error() -> None:
    manager = make_replicas(2)
    batch = [claimed(manager, 5, on=replica) for replica in (1, 0)]
    with pytest.raises(RequestStateError, match=r"ordered .* got .*\[1, 0\]"):
        manager.get_data_parallel_splits(batch)


def test_gauges_are_over_all_replicas() -> None:
    manager = make_replicas(2, num_pages=8)
    assert manager.total_num_pages == manager.num_free_blocks == 16
    first, second = claimed(manager, 40, on=0), claimed(manager, 20, on=1)
    compute(manager, first, second)
    assert manager.num_free_blocks == 16 - 3 - 2
    assert manager.used_blocks_pct == pytest.approx(5 / 16)
    assert manager.metrics == KVCacheMetrics(input_tokens=60)
    manager.reset_metrics()
    assert manager.metrics == KVCacheMetrics()
    assert manager.total_num_host_pages == 0
    assert manager.host_committed_block_pct == 0.0


def test_resetting_forgets_on_every_replica() -> None:
    manager = make_replicas(2)
    for replica in (0, 1):
        request = claimed(manager, 40, on=replica)
        compute(manager, request)
        manager.release(request.request_id)
    manager.reset_prefix_cache()
    for replica in (0, 1):
        assert manager.adopt_prefix(claimed(manager, 40, on=replica)) == 0


def test_symbols_name_the_dimensions_of_each_replica() -> None:
    manager = make_replicas(2, 2)
    symbols = manager.input_symbols()
    for place, each in enumerate(symbols):
        head = f"replica_{place // 2}"
        assert [[str(dim) for dim in one.shape] for one in each] == [
            ["total_num_pages", "2", "3", "16", "1", "8"],
            [f"{head}_batch_size"],
            [f"{head}_batch_size", f"{head}_max_num_pages"],
            [f"{head}_steps_remaining", "2"],
        ]
    inputs = manager.fetch([claimed(manager, 20, on=1)])
    for each, types in zip(inputs, symbols, strict=True):
        for buffer, symbol in zip(each, types, strict=True):
            assert (buffer.dtype, buffer.rank) == (symbol.dtype, symbol.rank)


def test_symbols_honour_what_they_are_asked_for() -> None:
    manager = make_replicas(2)
    symbols = manager.input_symbols([HOST, HOST], 7)
    assert [int(each.blocks.shape[2]) for each in symbols] == [7, 7]
    with pytest.raises(InvalidParamsError, match=r"wanted 2 devices.*got 1"):
        manager.input_symbols([HOST])
    with pytest.raises(InvalidParamsError, match="num_layers must be positive"):
        manager.input_symbols(num_layers=0)


def test_each_replica_needs_memory_for_a_page() -> None:
    with pytest.raises(InsufficientMemoryError, match=r"at least 6144 .* 6143"):
        make_replicas(2, available_cache_memory=2 * 6144 - 1)
    manager = make_replicas(2, available_cache_memory=5 * 6144)
    assert manager.total_num_pages == 4


def test_sizing_of_replicas_worked_by_hand() -> None:
    # 384 bytes a token on each of three replicas, pages of 16 tokens.
    params = KVCacheParams(
        "float32", 2, 8, page_size=16, n_devices=3, data_parallel_degree=3
    )
    page = 384 * 16
    estimate = PagedKVCacheManager.estimated_memory_size
    devices = [HOST] * 3
    # Four requests of two pages each, wherever they are: not three times it.
    assert estimate(params, 4, 17, 3, 10**9, devices) == 4 * 2 * page
    # Two requests on the first replica, whose share holds one and a half.
    assert estimate(params, 4, 17, 3, 9 * page, devices) == 7 * page
    longest = PagedKVCacheManager.max_supported_sequence_length
    assert longest(params, 3, 9 * page - 1) == 32


def test_single_steps_of_two_replicas_equal_two_managers() -> None:
    both = make_replicas(2, copy_prefixes_across_replicas=False)
    alone = [make_replicas(1) for _ in range(2)]
    for length, on in ((40, 0), (50, 1), (33, 0), (33, 1), (70, 0)):
        request, twin = claimed(both, length, on=on), claimed(alone[on], length)
        assert both.maybe_reserve(request) == alone[on].maybe_reserve(twin)
        ours, theirs = both.fetch([request]), alone[on].fetch([twin])
        for left, right in zip(ours[on][1:], theirs[0][1:], strict=True):
            np.testing.assert_array_equal(left.to_numpy(), right.to_numpy())
        request.update(7)
        twin.update(7)
        both.step([request])
        alone[on].step([twin])
    total = alone[0].metrics + alone[1].metrics
    assert both.metrics == total
    assert total.cache_tokens > 0
