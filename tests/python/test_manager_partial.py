"""Hits that end inside a page, seen in the pools' own bytes."""

import numpy as np
import pytest

from byte_loop import ByteLoop
from byte_oracle import ByteOracle
from kvcache import KVCacheMetrics, Request
from kvcache.errors import InvalidParamsError
from managers import claimed, make, make_replicas, pages

pytestmark = pytest.mark.usefixtures("either_core")

PAGE = list(range(100, 116))
NEXT = list(range(200, 216))


def test_the_beginning_of_a_cached_page_is_copied() -> None:
    manager = make(min_partial_hit=4)
    loop = ByteLoop(manager)
    first = loop.serve([*PAGE, *NEXT, 1])
    request = claimed(manager, [*PAGE, *NEXT[:5], 9, 9, 9])
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 21
    assert pages(manager, request)[0] == pages(manager, first)[0]
    assert pages(manager, request)[1] not in pages(manager, first)
    assert manager.metrics == KVCacheMetrics(
        33 + 3, 21, copied_pages=0, partial_tokens=5
    )
    for _ in range(12):  # Past the end of the page, which is committed.
        loop.step(request, first)


def test_the_source_of_a_copy_may_be_evicted_at_once() -> None:
    manager = make(num_pages=3, min_partial_hit=1)
    loop = ByteLoop(manager)
    loop.leave(loop.serve([*PAGE, 5]))
    request = claimed(manager, [*PAGE[:9], *[1] * 20])
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 9
    other = claimed(manager, 3)
    loop.step(other)  # In the page that was copied.
    assert manager.metrics.evicted_pages == 1
    loop.step(request, other)
    loop.step(request, other)


@pytest.mark.parametrize(("least", "hit"), [(None, 16), (6, 16), (5, 21)])
def test_too_short_a_beginning_is_computed(least: int | None, hit: int) -> None:
    manager = make(min_partial_hit=least)
    loop = ByteLoop(manager)
    loop.serve([*PAGE, *NEXT, 1])
    request = claimed(manager, [*PAGE, *NEXT[:5], 9])
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == hit
    loop.step(request)


def test_a_prompt_that_is_cached_whole_computes_its_last_token() -> None:
    manager = make(min_partial_hit=1)
    loop = ByteLoop(manager)
    loop.serve([*PAGE, *NEXT, 1])
    request = claimed(manager, [*PAGE, *NEXT])
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 31
    assert manager.metrics.partial_tokens == 15
    loop.step(request)


def test_a_request_goes_on_and_commits_behind_a_partial_hit() -> None:
    manager = make(min_partial_hit=1)
    loop = ByteLoop(manager)
    loop.serve([*PAGE, *NEXT, 1])
    request = loop.serve([*PAGE, *NEXT[:5], *[9] * 11, 3])
    third = claimed(manager, [*PAGE, *NEXT[:5], *[9] * 11, 4])
    assert manager.maybe_reserve(third)
    assert third.tokens.processed_length == 32
    assert pages(manager, third)[:2] == pages(manager, request)[:2]
    loop.step(third, request)


def test_reserving_again_and_fetching_take_nothing_more() -> None:
    manager = make(min_partial_hit=1)
    loop = ByteLoop(manager)
    loop.serve([*PAGE, 1])
    request = claimed(manager, [*PAGE[:7], 9, 9])
    assert manager.maybe_reserve(request)
    before = pages(manager, request), manager.metrics, manager.num_free_blocks
    assert manager.maybe_reserve(request)
    assert manager.reserve_batch([request])
    assert (
        pages(manager, request),
        manager.metrics,
        manager.num_free_blocks,
    ) == before
    loop.step(request)


def test_a_request_may_be_rewound_to_the_pages_before_the_part() -> None:
    manager = make(min_partial_hit=1)
    loop = ByteLoop(manager)
    loop.serve([*PAGE, *NEXT, 1])
    request = claimed(manager, [*PAGE, *NEXT[:5], 9])
    assert manager.maybe_reserve(request)
    request.tokens.rewind_processing(5)
    loop.step(request)
    assert request.tokens.processed_length == 22


def test_fetch_and_a_batch_find_parts_as_well() -> None:
    manager = make(num_pages=20, min_partial_hit=1)
    loop = ByteLoop(manager)
    loop.serve([*PAGE, 1])
    fetched = claimed(manager, [*PAGE[:7], 9, 9])
    loop.step(fetched)
    batch = [claimed(manager, [*PAGE[:n], 8, 8]) for n in (3, 12)]
    assert manager.reserve_batch(batch)
    assert [r.tokens.processed_length for r in batch] == [3, 12]
    loop.step(*batch, fetched)
    assert manager.metrics.partial_tokens == 7 + 3 + 12


def test_a_part_of_a_chunk_moves_the_chunk_on() -> None:
    manager = make(min_partial_hit=1)
    loop = ByteLoop(manager)
    loop.serve([*PAGE, 1])
    request = claimed(manager, [*PAGE[:12], *[9] * 20])
    request.tokens.chunk(8)
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 12
    assert request.tokens.current_position == 20
    loop.step(request)
    loop.step(request)


def test_without_room_for_a_copy_it_is_computed() -> None:
    manager = make(num_pages=3, min_partial_hit=1)
    loop = ByteLoop(manager)
    loop.leave(loop.serve([*PAGE, 1]))
    request = claimed(manager, [*PAGE[:9], *[1] * 30, 2, 3])
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 0
    loop.step(request)


def test_other_salts_give_no_parts() -> None:
    manager = make(min_partial_hit=1)
    ByteLoop(manager).serve([*PAGE, 1], cache_salt="a")
    request = claimed(manager, [*PAGE[:9], 3], cache_salt="b")
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 0


@pytest.mark.parametrize("shards", [1, 2])
def test_a_part_is_copied_on_every_shard_of_its_own_replica(
    shards: int,
) -> None:
    manager = make_replicas(2, shards, min_partial_hit=1)
    oracle = ByteOracle(manager.page_size)

    def step(request: Request) -> None:
        replica = manager.get_replica(request)
        inputs = manager.fetch([request])
        own = inputs[replica * shards : (replica + 1) * shards]
        oracle.check([request], own)
        span = range(
            request.tokens.processed_length, request.tokens.current_position
        )
        oracle.write([request], own, [span])
        request.update(7)
        manager.step([request])

    step(claimed(manager, [*PAGE, 1], on=1))
    elsewhere = claimed(manager, [*PAGE[:9], 3], on=0)
    assert manager.maybe_reserve(elsewhere)
    assert elsewhere.tokens.processed_length == 0
    request = claimed(manager, [*PAGE[:9], 3], on=1)
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 9
    step(request)
    step(elsewhere)


def test_rows_of_a_running_batch_get_parts() -> None:
    manager = make(min_partial_hit=4)
    batch = manager.open_batch()
    batch.admit([np.array([*PAGE, 1])])
    (inputs,) = batch.inputs()
    page = batch.pages(0)[0]
    inputs.blocks.to_numpy()[page] = np.arange(16)[:, None, None]
    batch.advance(np.array([5]))
    hits = batch.admit([np.array([*PAGE[:9], 3]), np.array([*PAGE[:3], 3])])
    assert hits.tolist() == [9, 0]
    assert manager.metrics == KVCacheMetrics(17 + 1 + 4, 9, partial_tokens=9)
    pool = inputs.blocks.to_numpy()
    np.testing.assert_array_equal(pool[batch.pages(1)[0]], pool[page])
    assert batch.pages(1)[0] != page
    assert not pool[batch.pages(2)[0]].any()


@pytest.mark.parametrize("least", [0, -1, 16, 17])
def test_a_part_is_from_one_token_to_a_page_less_one(least: int) -> None:
    with pytest.raises(InvalidParamsError, match="min_partial_hit from 1 to"):
        make(min_partial_hit=least)
