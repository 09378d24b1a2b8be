"""Prefixes that go from replica to replica, seen in the pools' own bytes."""

from typing import Any

import pytest

from byte_oracle import ByteOracle
from kvcache import (
    KVCacheMetrics,
    PagedKVCacheManager,
    Request,
)
from managers import claimed, make_replicas, pages


class Loop:
    """A loop over replicas whose model writes real bytes."""

    def __init__(self, manager: PagedKVCacheManager) -> None:
        self.manager = manager
        self.oracle = ByteOracle(manager.page_size)

    def step(self, *batch: Request) -> None:
        inputs = self.manager.fetch(batch)
        each = self.manager.devices_per_replica
        for replica in range(self.manager.num_replicas):
            rows = [r for r in batch if self.manager.get_replica(r) == replica]
            shards = inputs[replica * each : (replica + 1) * each]
            self.oracle.check(rows, shards)
            spans = [
                range(r.tokens.processed_length, r.tokens.current_position)
                for r in rows
            ]
            self.oracle.write(rows, shards, spans)
        for request in batch:
            request.update(7)
        self.manager.step(batch)

    def serve(self, tokens: Any, on: int, **fields: Any) -> Request:
        request = claimed(self.manager, tokens, on=on, **fields)
        assert self.manager.maybe_reserve(request)
        self.step(request)
        return request


def free_order(manager: PagedKVCacheManager, replica: int) -> list[int]:
    order: list[int] = manager._replicas.members[replica].core.eviction_order()
    return order


@pytest.mark.parametrize("shards", [1, 2])
def test_a_prefix_of_another_replica_is_copied(shards: int) -> None:
    manager = make_replicas(2, shards, num_pages=20)
    loop = Loop(manager)
    loop.serve(40, on=0)
    request = claimed(manager, 100, on=1)
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 32
    assert manager.metrics == KVCacheMetrics(40 + 68, 32, copied_pages=2)
    loop.step(request)
    loop.step(request)
    # What was copied is findable at once, and so is what came behind it.
    assert manager.adopt_prefix(claimed(manager, 100, on=1)) == 96
    assert manager.metrics.copied_pages == 2


def test_the_last_token_is_never_copied() -> None:
    manager = make_replicas(2, num_pages=20)
    loop = Loop(manager)
    loop.serve(60, on=0)
    for length, hit in ((48, 32), (49, 48), (16, 0)):
        request = claimed(manager, length, on=1)
        assert manager.maybe_reserve(request)
        assert request.tokens.processed_length == hit
        loop.step(request)


def test_a_prefix_that_is_there_already_leaves_the_others_alone() -> None:
    manager = make_replicas(2, num_pages=20)
    loop = Loop(manager)
    for on in (0, 1):
        for tokens in (range(40), range(100, 140)):
            manager.release(loop.serve(tokens, on=on).request_id)
    order = free_order(manager, 0)
    loop.serve([*range(40), *range(200, 220)], on=1)
    assert free_order(manager, 0) == order


def test_what_was_computed_is_not_copied_over() -> None:
    manager = make_replicas(2, num_pages=20)
    loop = Loop(manager)
    loop.serve(20, on=0)
    request = claimed(manager, range(60), on=1)
    request.tokens.chunk(24)
    manager.fetch([request])
    request.update(0)
    assert manager.maybe_reserve(request)  # Not committed: not looked up.
    assert request.tokens.processed_length == 24
    assert manager.adopt_prefix(request) == 0
    assert manager.metrics.copied_pages == 0


def test_the_copies_are_findable_before_anything_is_computed() -> None:
    manager = make_replicas(2, num_pages=20)
    loop = Loop(manager)
    loop.serve(40, on=0)
    first, second = (claimed(manager, 40, on=1) for _ in range(2))
    assert manager.maybe_reserve(first)
    assert manager.maybe_reserve(second)
    assert pages(manager, first)[:2] == pages(manager, second)[:2]
    assert manager.metrics.copied_pages == 2
    loop.step(first, second)


def test_adopting_takes_the_pages_of_the_prefix_and_no_more() -> None:
    manager = make_replicas(2, num_pages=20)
    loop = Loop(manager)
    loop.serve(100, on=1)
    request = claimed(manager, 140, on=0)
    assert manager.adopt_prefix(request) == 96
    assert len(pages(manager, request)) == 6
    assert manager.adopt_prefix(request) == 0
    loop.step(request)


def test_a_cached_beginning_is_shared_and_the_rest_is_copied() -> None:
    manager = make_replicas(2, num_pages=20)
    loop = Loop(manager)
    loop.serve(100, on=0)
    near = loop.serve(40, on=1)
    before = manager.metrics.copied_pages
    request = loop.serve(120, on=1)
    assert manager.metrics.copied_pages == before + 4
    assert pages(manager, request)[:2] == pages(manager, near)[:2]
    loop.step(near, request)


def test_the_longest_prefix_counts() -> None:
    manager = make_replicas(3, num_pages=20)
    loop = Loop(manager)
    loop.serve(40, on=0)
    loop.serve([*range(40), *range(200, 240)], on=2)
    request = loop.serve([*range(40), *range(200, 260)], on=1)
    assert manager.metrics.copied_pages == 2 + 5
    loop.step(request)


def test_salt_and_model_keep_prefixes_where_they_are() -> None:
    manager = make_replicas(2, num_pages=20)
    loop = Loop(manager)
    loop.serve(40, on=0, cache_salt="a")
    for fields in ({}, {"cache_salt": "b"}, {"model_name": "a"}):
        request = loop.serve(40, on=1, **fields)
        loop.step(request)
    assert manager.metrics.copied_pages == 0


def test_colliding_digests_copy_nothing_foreign() -> None:
    manager = make_replicas(2, num_pages=20, digest=lambda *_: b"")
    loop = Loop(manager)
    loop.serve(range(100, 180), on=0)
    loop.serve(48, on=0)
    request = loop.serve([*range(32), *range(500, 550)], on=1)
    assert manager.metrics.copied_pages == 2
    loop.step(request)


def test_nothing_is_copied_unless_wanted() -> None:
    for changes in (
        {"copy_prefixes_across_replicas": False},
        {"caching": False},
    ):
        manager = make_replicas(2, num_pages=20, **changes)
        assert not manager.copy_prefixes_across_replicas
        loop = Loop(manager)
        loop.serve(40, on=0)
        assert manager.adopt_prefix(claimed(manager, 40, on=1)) == 0
        loop.serve(40, on=1)
        assert manager.metrics == KVCacheMetrics(80)
    assert make_replicas(2).copy_prefixes_across_replicas
    assert not make_replicas(1).copy_prefixes_across_replicas


def test_decoding_looks_at_no_other_replica() -> None:
    manager = make_replicas(2, num_pages=20)
    loop = Loop(manager)
    request = loop.serve(40, on=0)

    def fail(*_: object) -> None:
        raise AssertionError("looked up")

    manager._replicas.members[0].find_offer = fail
    for _ in range(40):
        assert manager.maybe_reserve(request)
        loop.step(request)


def test_sources_outlive_the_copy_in_a_full_pool() -> None:
    manager = make_replicas(2, num_pages=6)
    loop = Loop(manager)
    for start in (0, 100):
        gone = loop.serve(range(start, start + 40), on=0)
        manager.release(gone.request_id)
    assert len(free_order(manager, 0)) == 6
    request = loop.serve(40, on=1)  # Its source is all cached, none held.
    assert manager.metrics.copied_pages == 2
    # The source counts as used, so the other prefix goes first.
    other = loop.serve(range(200, 260), on=0)
    assert manager.metrics.evicted_pages == 2
    loop.step(request, other)
    assert manager.adopt_prefix(claimed(manager, 40, on=0)) == 32


def test_a_copy_keeps_no_page_of_its_source() -> None:
    manager = make_replicas(2, num_pages=10)
    loop = Loop(manager)
    for number in range(20):
        prompt = [*range(32), *range(100 * number, 100 * number + 20)]
        for on in (number % 2, 1 - number % 2):
            manager.release(loop.serve(prompt, on=on).request_id)
            assert manager.num_free_blocks == manager.total_num_pages
    assert manager.metrics.copied_pages >= 20


def test_a_refused_request_copies_nothing_and_changes_no_order() -> None:
    manager = make_replicas(2, num_pages=6)
    loop = Loop(manager)
    for start in (0, 100):
        gone = loop.serve(range(start, start + 40), on=0)
        manager.release(gone.request_id)
    holder = claimed(manager, range(500, 548), on=1)
    assert manager.maybe_reserve(holder)
    state = [free_order(manager, replica) for replica in (0, 1)]
    metrics = manager.metrics
    request = claimed(manager, 50, on=1)
    assert not manager.maybe_reserve(request)
    assert [free_order(manager, replica) for replica in (0, 1)] == state
    assert pages(manager, request) == []
    assert request.tokens.processed_length == 0
    assert manager.metrics == metrics


def test_a_chunk_moves_behind_what_was_copied() -> None:
    manager = make_replicas(2, num_pages=20)
    loop = Loop(manager)
    loop.serve(100, on=0)
    request = claimed(manager, 140, on=1)
    request.tokens.chunk(32)
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 96
    assert request.tokens.active.tolist() == list(range(96, 128))
    assert len(pages(manager, request)) == 8
    loop.step(request)


def test_a_chunk_is_served_without_a_prefix_that_does_not_fit() -> None:
    manager = make_replicas(2, num_pages=9)
    loop = Loop(manager)
    loop.serve(100, on=0)
    holder = claimed(manager, range(500, 580), on=1)
    assert manager.maybe_reserve(holder)  # Four of nine pages are left.
    request = claimed(manager, 140, on=1)
    request.tokens.chunk(32)
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 0
    assert len(pages(manager, request)) == 2
    assert manager.metrics.copied_pages == 0
    other = claimed(manager, 120, on=1)
    assert manager.adopt_prefix(other) == 0
    assert pages(manager, other) == []
    loop.step(request)


def test_a_late_prefix_fills_pages_that_were_reserved() -> None:
    manager = make_replicas(2, num_pages=20)
    loop = Loop(manager)
    late = claimed(manager, 60, on=1)
    assert manager.maybe_reserve(late)
    own = pages(manager, late)
    loop.serve(50, on=0)
    assert manager.maybe_reserve(late)
    assert late.tokens.processed_length == 48
    assert pages(manager, late) == own
    assert manager.metrics == KVCacheMetrics(60 - 48 + 50, 48, copied_pages=3)
    loop.step(late)
