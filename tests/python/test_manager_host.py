"""The host tier of a manager, seen in real bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from byte_oracle import ByteOracle, words
from flaky_pools import FlakyCopies
from host_contents import check_contents_come_back
from kvcache import KVCacheMetrics, PagedKVCacheManager, Request
from kvcache.core.digest import namespace
from kvcache.core.interface import Move
from kvcache.errors import (
    InsufficientMemoryError,
    InsufficientPagesError,
    InvalidParamsError,
)
from managers import HOST, claimed, make, make_replicas, pages

SIZE = 4
A, B = [1] * 13, [2] * 13  # Three whole pages and one token each.


def tiers(num_pages: int = 4, host_pages: int = 8, **changes: Any) -> Any:
    return make(num_pages, SIZE, host_pages=host_pages, **changes)


def run(manager: PagedKVCacheManager, *batch: Request) -> None:
    """Checks what is there, computes the rest in real bytes and commits."""
    replica, each = manager.get_replica(batch[0]), manager.devices_per_replica
    inputs = manager.fetch(batch)[replica * each : (replica + 1) * each]
    oracle = ByteOracle(SIZE)
    oracle.check(batch, inputs)
    spans = [range(r.tokens.processed_length, len(r.tokens)) for r in batch]
    oracle.write(batch, inputs, spans)
    for request in batch:
        request.update(7)
    manager.step(batch)


def serve(
    manager: PagedKVCacheManager,
    tokens: Sequence[int],
    *,
    on: int | None = None,
) -> int:
    """Serves a prompt and lets it go; returns the tokens that were found."""
    request = claimed(manager, tokens, on=on)
    assert manager.maybe_reserve(request)
    hit = request.tokens.processed_length
    run(manager, request)
    manager.release(request.request_id)
    return hit


def core(manager: PagedKVCacheManager, replica: int = 0) -> Any:
    return manager._replicas.members[replica].core


def on_host(num_pages: int = 8, **changes: Any) -> Any:
    """A manager whose device is empty and whose host holds the prompt A."""
    manager = tiers(num_pages, **changes)
    serve(manager, A)
    filler = claimed(manager, [9] * (num_pages * SIZE - 1))
    manager.maybe_reserve(filler)
    manager.release(filler.request_id)
    assert core(manager).num_cached == 0
    assert core(manager).num_host_cached == 3
    manager.reset_metrics()
    return manager


def test_two_prompts_that_evict_each_other_hit_through_the_host() -> None:
    manager = tiers(num_pages=4, host_pages=8)
    assert manager.total_num_host_pages == 8
    assert manager.host_committed_block_pct == 0.0
    assert [serve(manager, A), serve(manager, B)] == [0, 0]
    assert manager.host_committed_block_pct == 3 / 8
    assert [serve(manager, A), serve(manager, B)] == [12, 12]
    assert manager.metrics == KVCacheMetrics(
        input_tokens=2 * 13 + 2 * 1,
        cache_tokens=2 * 12,
        h2d_blocks_copied=6,
        d2h_blocks_copied=9,
    )
    assert manager.metrics.cache_hit_rate == 24 / 52


def test_no_host_page_is_held_and_a_reset_blanks_them_all() -> None:
    manager = tiers(num_pages=4, host_pages=3)
    for _ in range(5):  # Were a page kept at each load, it would be short.
        serve(manager, A)
        serve(manager, B)
    assert manager.metrics.h2d_blocks_copied > 12
    assert core(manager).num_host_cached == 3
    manager.reset_prefix_cache()
    assert manager.host_committed_block_pct == 0.0
    assert manager.free_blocks_pct == 1.0
    assert [serve(manager, A), serve(manager, B)] == [0, 0]


def test_each_replica_and_shard_has_its_share() -> None:
    manager = make_replicas(2, 2, num_pages=4, page_size=SIZE, host_pages=7)
    assert manager.total_num_host_pages == 7
    assert [core(manager, i).num_host_pages for i in range(2)] == [4, 3]
    assert [serve(manager, prompt, on=1) for prompt in (A, B, A)] == [0, 0, 12]
    assert manager.metrics.h2d_blocks_copied == 3
    assert core(manager, 0).num_host_cached == 0


def test_there_is_no_tier_unless_it_is_wanted() -> None:
    manager = make()
    assert not manager.enable_kvcache_swapping_to_host
    assert manager.total_num_host_pages == 0
    assert manager.host_committed_block_pct == 0.0
    assert tiers().enable_kvcache_swapping_to_host


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_share_without_a_page_is_refused(replicas) -> None:
    least = replicas * 1536  # 2 * 2 heads * 8 elements * 4 bytes * 3 * 4.
    make_replicas(replicas, page_size=SIZE, host_pages=replicas)
    with pytest.raises(
        InsufficientMemoryError, match=f"wanted at least {least} bytes of host"
    ):
        make_replicas(replicas, page_size=SIZE, host_pages=replicas - 0.01)


@pytest.mark.parametrize("pages", [-1, float("nan"), float("inf")])
def test_a_size_that_is_none_is_refused(pages) -> None:
    with pytest.raises(InvalidParamsError, match="wanted host_kvcache_swap"):
        tiers(host_pages=pages)


@pytest.mark.parametrize(
    ("gbps", "rate", "hit"),
    [
        (None, None, 12),
        (1.0, None, 12),
        (None, 1.0, 12),
        (1.0, 1e6, 12),  # 1.5 us to load a page, 4 us to compute it.
        (1.0, 3e6, 0),  # 1.3 us to compute it.
        (1.536, 4e6, 12),  # One takes as long as the other.
    ],
)
def test_a_page_is_loaded_where_that_takes_less_time(gbps, rate, hit) -> None:
    manager = tiers(host_load_gbps=gbps, prefill_tokens_per_second=rate)
    serve(manager, A)
    serve(manager, B)
    assert serve(manager, A) == hit
    assert manager.metrics.h2d_blocks_copied == hit // SIZE


@pytest.mark.parametrize(
    "name", ["host_load_gbps", "prefill_tokens_per_second"]
)
@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_is_positive(name, rate) -> None:
    with pytest.raises(InvalidParamsError, match=f"{name} must be positive"):
        tiers(**{name: rate})


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("adopts", [False, True])
def test_a_page_that_fails_to_load_is_computed_again(lost, adopts) -> None:
    manager = on_host()
    flaky = FlakyCopies(manager)
    request = claimed(manager, A)
    flaky.orders = [source == lost for source in load_order(manager)]
    if adopts:
        assert manager.adopt_prefix(request) == lost * SIZE
        assert len(pages(manager, request)) == lost
    assert manager.maybe_reserve(request)
    assert flaky.num_failed == 1
    assert request.tokens.processed_length == lost * SIZE
    run(manager, request)
    manager.release(request.request_id)
    metrics = manager.metrics
    assert metrics.cache_tokens == lost * SIZE
    assert (metrics.failed_loads, metrics.h2d_blocks_copied) == (1, 2)
    assert serve(manager, A) == 12
    assert core(manager).num_free == 8


def load_order(manager: PagedKVCacheManager) -> list[int]:
    """Returns which page of A is loaded first, and so on."""
    return np.argsort(cached(manager, A)).tolist()


def cached(
    manager: PagedKVCacheManager, tokens: Sequence[int], replica: int = 0
) -> list[int]:
    """Returns the pages that hold a prompt; those from 8 on are the host's."""
    root = namespace(cache_salt=None, model_name="")
    probe = core(manager, replica).probe(root, np.array(tokens))
    return probe.pages.tolist()


def test_a_page_that_does_not_get_to_the_host_is_not_found() -> None:
    manager = tiers(num_pages=4)
    serve(manager, A)
    flaky = FlakyCopies(manager)
    flaky.orders = [True]  # Of pages 0, 1 and 2; the first one has no parent.
    assert serve(manager, B) == 0
    assert manager.metrics.failed_offloads == 1
    assert cached(manager, A) == []
    assert core(manager).num_host_cached == 0
    assert serve(manager, A) == 0


@pytest.mark.parametrize("lost", [1, 2])
def test_what_comes_before_a_lost_page_is_still_found(lost) -> None:
    manager = tiers(num_pages=4)
    serve(manager, A)
    flaky = FlakyCopies(manager)
    flaky.orders = [page == lost for page in range(3)]
    serve(manager, B)
    assert len(cached(manager, A)) == lost
    assert serve(manager, A) == lost * SIZE


def test_two_requests_that_were_to_share_a_lost_page_have_their_own() -> None:
    manager = on_host(num_pages=10)
    FlakyCopies(manager).breaks = Move.ONLOAD
    batch = [claimed(manager, [*A, last]) for last in (3, 4)]
    assert manager.reserve_batch(batch)
    assert [r.tokens.processed_length for r in batch] == [0, 0]
    assert not {*pages(manager, batch[0])} & {*pages(manager, batch[1])}
    assert [len(pages(manager, r)) for r in batch] == [4, 4]
    run(manager, *batch)
    assert manager.metrics.cache_tokens == 0
    assert manager.metrics.failed_loads == 3
    assert pages(manager, batch[0])[:3] == pages(manager, batch[1])[:3]


@pytest.mark.parametrize("fetches", [False, True])
def test_a_lost_page_that_two_cannot_share_is_a_shortage(fetches) -> None:
    manager = on_host(num_pages=5)  # Three that are shared, one for each.
    flaky = FlakyCopies(manager)
    flaky.breaks = Move.ONLOAD
    batch = [claimed(manager, [*A, last]) for last in (3, 4)]
    if fetches:
        with pytest.raises(InsufficientPagesError):
            manager.fetch(batch)
    else:
        assert not manager.reserve_batch(batch)
    assert [pages(manager, r) for r in batch] == [[], []]
    assert [r.tokens.processed_length for r in batch] == [0, 0]
    assert manager.num_free_blocks == 5
    for request in batch:
        assert manager.maybe_reserve(request)
        run(manager, request)
        manager.release(request.request_id)


def test_a_shortage_leaves_what_was_reserved_before() -> None:
    manager = tiers(num_pages=8, max_batch_size=5)
    early = claimed(manager, [*A, 3])
    assert manager.maybe_reserve(early)
    serve(manager, A)
    filler = claimed(manager, [9] * 15)
    manager.maybe_reserve(filler)
    manager.release(filler.request_id)
    assert core(manager).num_host_cached == 3
    assert manager.maybe_reserve(claimed(manager, [9] * 12))
    assert manager.num_free_blocks == 1
    batch = [claimed(manager, [*A, 4]), early]
    flaky = FlakyCopies(manager)
    flaky.breaks = Move.ONLOAD
    assert not manager.reserve_batch(batch)
    assert [len(pages(manager, r)) for r in batch] == [0, 4]
    assert manager.num_free_blocks == 1
    run(manager, early)


def test_rows_that_run_compute_what_did_not_load() -> None:
    manager = on_host(num_pages=8)
    flaky = FlakyCopies(manager)
    flaky.orders = [column == 1 for column in load_order(manager)]
    batch = manager.open_batch()
    prompts = [np.array([*A, last]) for last in (3, 4)]
    assert batch.admit(prompts).tolist() == [4, 4]
    assert manager.metrics.cache_tokens == 8
    (inputs,) = batch.inputs()
    assert inputs.cache_lengths.to_numpy().tolist() == [4, 4]
    oracle, rows = ByteOracle(SIZE), [Request(p) for p in prompts]
    for row, request in enumerate(rows):
        for position in range(SIZE):
            slot = oracle.slot(inputs, row, position)
            assert (slot == words(request, position, 0, slot)).all()
    assert not {*batch.pages(0)[1:]} & {*batch.pages(1)[1:]}
    batch.commit()
    assert batch.pages(0)[:3] == batch.pages(1)[:3]


def test_rows_that_run_send_what_they_evict_to_the_host() -> None:
    manager = tiers(num_pages=4)
    serve(manager, A)
    batch = manager.open_batch()
    flaky = FlakyCopies(manager)
    batch.admit([np.array([5] * 4)])
    for _ in range(2):
        batch.advance(np.array([5]))
    assert len(batch.pages(0)) == 2
    for _ in range(4):
        batch.advance(np.array([5]))
    assert manager.metrics.d2h_blocks_copied == 2
    assert len(cached(manager, A)) == 3
    flaky.breaks = Move.OFFLOAD
    for _ in range(4):
        batch.advance(np.array([5]))
    assert manager.metrics.failed_offloads == 1
    assert cached(manager, A) == []
    batch.leave([0])


def test_what_a_replica_has_on_the_host_is_not_lent() -> None:
    manager = make_replicas(2, num_pages=4, page_size=SIZE, host_pages=16)
    serve(manager, A, on=0)
    serve(manager, B, on=0)
    assert max(cached(manager, B)) < 4 <= min(cached(manager, A))
    assert serve(manager, A, on=1) == 0
    assert serve(manager, B, on=1) == 12
    assert manager.metrics.copied_pages == 3
    assert manager.metrics.h2d_blocks_copied == 0


def test_a_prefix_is_copied_where_ones_own_does_not_load() -> None:
    manager = make_replicas(2, num_pages=4, page_size=SIZE, host_pages=16)
    serve(manager, A[:9], on=0)
    serve(manager, B, on=0)
    assert serve(manager, A, on=1) == 0
    FlakyCopies(manager).breaks = Move.ONLOAD
    assert serve(manager, A, on=0) == 12
    metrics = manager.metrics
    assert (metrics.failed_loads, metrics.copied_pages) == (2, 3)


def test_routing_counts_what_can_be_loaded() -> None:
    manager = make_replicas(2, num_pages=4, page_size=SIZE, host_pages=16)
    serve(manager, A, on=1)
    serve(manager, B, on=1)
    assert manager.get_or_recommend_replica(Request(A)) == 1
    manager = make_replicas(
        2,
        num_pages=4,
        page_size=SIZE,
        host_pages=16,
        host_load_gbps=1.0,
        prefill_tokens_per_second=1e9,
    )
    serve(manager, A, on=1)
    serve(manager, B, on=1)
    assert manager.get_or_recommend_replica(Request(A)) == 0


def test_adopting_loads_as_much_as_there_is_room_for() -> None:
    manager = on_host(num_pages=4)
    assert manager.maybe_reserve(claimed(manager, [9] * 8))
    request = claimed(manager, A)
    assert manager.adopt_prefix(request) == 8
    assert not manager.maybe_reserve(request)
    assert len(pages(manager, request)) == 2


def test_what_is_not_to_be_loaded_is_not_counted_on() -> None:
    manager = make_replicas(
        2,
        num_pages=5,
        page_size=SIZE,
        host_pages=16,
        host_load_gbps=1.0,
        prefill_tokens_per_second=1e9,
    )
    serve(manager, A, on=1)
    filler = claimed(manager, [9] * 19, on=1)
    manager.maybe_reserve(filler)
    manager.release(filler.request_id)
    batch = [claimed(manager, [5], on=0)]
    batch += [claimed(manager, [*A, last], on=1) for last in (3, 4)]
    # The last two would have room if they shared what is on the host.
    with pytest.raises(InsufficientPagesError):
        manager.fetch(batch)
    assert [pages(manager, request) for request in batch] == [[], [], []]


def test_contents_come_back_in_their_own_pages() -> None:
    check_contents_come_back(HOST)
