"""Requests that go back, seen in the pools' own bytes."""

import pytest

from byte_loop import ByteLoop
from kvcache import KVCacheMetrics, PagedKVCacheManager, Request
from kvcache.errors import RequestStateError, UnknownRequestError
from managers import claimed, make, pages

pytestmark = pytest.mark.usefixtures("either_core")


def state_of(manager: PagedKVCacheManager, *requests: Request) -> object:
    return (
        [(r.tokens.processed_length, r.tokens.active_length) for r in requests],
        [pages(manager, r) for r in requests if manager.contains(r.request_id)],
        manager.num_free_blocks,
        manager.metrics,
    )


def test_truncating_gives_pages_back_and_moves_the_window() -> None:
    manager = make()
    loop = ByteLoop(manager)
    request = loop.serve(50)
    assert len(pages(manager, request)) == 4
    manager.truncate(request, 20)
    assert request.tokens.processed_length == 20
    assert request.tokens.active.tolist() == [*range(20, 50), 7]
    assert len(pages(manager, request)) == 2
    assert manager.num_free_blocks == 8
    loop.step(request)
    loop.step(request)


def test_what_was_committed_is_copied_before_it_is_written_again() -> None:
    manager = make()
    loop = ByteLoop(manager)
    request = loop.serve([*range(32), 5])
    sibling = loop.serve([*range(32), 6])
    old = pages(manager, request)
    manager.truncate(request, 20)
    request.tokens._array[20:33] = 99  # A caller who edits.
    loop.step(request)
    assert pages(manager, request)[0] == old[0]
    assert pages(manager, request)[1] != old[1] == pages(manager, sibling)[1]
    loop.step(sibling, request)


def test_a_page_that_stays_in_part_is_copied_for_a_chunk_inside_it() -> None:
    manager = make()
    loop = ByteLoop(manager)
    request = loop.serve(31)
    loop.step(request)
    sibling = loop.serve([*range(31), 7, 8])
    assert pages(manager, request)[:2] == pages(manager, sibling)[:2]
    manager.truncate(request, 20)
    request.tokens._array[20:33] = 99
    request.tokens.chunk(4)
    loop.step(request)
    loop.step(sibling, request)


def test_truncating_at_a_page_finds_the_pages_again() -> None:
    manager = make()
    loop = ByteLoop(manager)
    request = loop.serve(50)
    manager.truncate(request, 16)
    assert manager.maybe_reserve(request)
    assert request.tokens.processed_length == 48
    assert manager.metrics == KVCacheMetrics(50 - 32, 32)
    loop.step(request)


def test_what_is_reserved_for_later_steps_is_given_back() -> None:
    manager = make()
    loop = ByteLoop(manager)
    request = loop.serve(20)
    assert manager.maybe_reserve(request, 60)
    assert len(pages(manager, request)) == 5
    manager.truncate(request)
    assert len(pages(manager, request)) == 2
    loop.step(request)
    assert manager.maybe_reserve(request, 60)
    assert len(pages(manager, request)) == 6


def test_a_caller_may_rewind_first_even_behind_what_was_committed() -> None:
    manager = make()
    loop = ByteLoop(manager)
    request = loop.serve(50)
    request.tokens.rewind_processing(40)
    with pytest.raises(RequestStateError, match="release or truncate"):
        manager.maybe_reserve(request)
    manager.truncate(request)
    assert request.tokens.processed_length == 10
    loop.step(request)
    manager.truncate(request, 0)
    assert pages(manager, request) == []
    loop.step(request)


def test_a_batch_that_was_fetched_before_is_verified_anew() -> None:
    manager = make()
    loop = ByteLoop(manager)
    request = claimed(manager, 20)
    loop.run(request)
    request.update(7)
    manager.truncate(request, 5)
    request.tokens.skip_processing(10)  # Nothing computed these.
    with pytest.raises(RequestStateError, match="15 processed tokens"):
        manager.step([request])
    with pytest.raises(RequestStateError, match="15 processed tokens"):
        manager.fetch([request])
    request.tokens.rewind_processing(10)
    loop.step(request)


@pytest.mark.parametrize("length", [-1, 21])
def test_a_length_beyond_what_is_processed_changes_nothing(length: int) -> None:
    manager = make()
    request = ByteLoop(manager).serve(20)
    before = state_of(manager, request)
    with pytest.raises(RequestStateError, match="from 0 to the 20 processed"):
        manager.truncate(request, length)
    assert state_of(manager, request) == before


def test_only_claimed_requests_that_were_fetched_are_truncated() -> None:
    manager = make()
    stranger = Request([1, 2])
    with pytest.raises(UnknownRequestError):
        manager.truncate(stranger)
    request = claimed(manager, 20)
    request.tokens.skip_processing(3)
    with pytest.raises(RequestStateError, match="its pages have 0"):
        manager.truncate(request)
    assert request.tokens.processed_length == 3
