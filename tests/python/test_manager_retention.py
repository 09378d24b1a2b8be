"""How long what requests leave behind stays in the cache."""

from math import inf, nan
from typing import Any

import numpy as np
import pytest

from byte_loop import ByteLoop
from kvcache import PagedKVCacheManager, Request
from kvcache.errors import RetentionError, UnknownRequestError
from managers import claimed, make, make_replicas

pytestmark = pytest.mark.usefixtures("either_core")


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def visit(manager: PagedKVCacheManager, first: int, **fields: Any) -> Request:
    """A request of two pages, one of them committed, that leaves."""
    loop = ByteLoop(manager)
    request = loop.serve(range(first, first + 17), **fields)
    loop.leave(request)
    return request


def is_cached(manager: PagedKVCacheManager, first: int) -> bool:
    request = claimed(manager, range(first, first + 17))
    hit = manager.adopt_prefix(request)
    manager.release(request.request_id)
    return hit > 0


def fill(manager: PagedKVCacheManager, num_pages: int) -> None:
    """Takes pages and gives them back, nothing of them cached."""
    request = claimed(manager, num_pages * 16)
    request.tokens._array += 5000
    assert manager.maybe_reserve(request)
    manager.release(request.request_id)


def test_a_higher_priority_outlives_what_was_used_later() -> None:
    manager = make(num_pages=4)
    visit(manager, 100, cache_priority=50)
    for first in (200, 300):
        visit(manager, first)
    fill(manager, 3)
    assert [is_cached(manager, n) for n in (100, 200, 300)] == [
        True,
        False,
        False,
    ]


def test_a_lower_priority_goes_before_what_is_older() -> None:
    manager = make(num_pages=3)
    visit(manager, 100)
    visit(manager, 200, cache_priority=0)
    fill(manager, 2)
    assert is_cached(manager, 100)
    assert not is_cached(manager, 200)


def test_a_time_to_live_ends() -> None:
    clock = Clock()
    manager = make(num_pages=3, clock=clock)
    visit(manager, 100, cache_priority=90, cache_ttl=10)
    visit(manager, 200)
    clock.now += 9.5
    fill(manager, 2)
    assert is_cached(manager, 100)
    visit(manager, 300)
    clock.now += 0.5  # Page 100 falls back, behind 300.
    fill(manager, 2)
    assert not is_cached(manager, 300)
    assert is_cached(manager, 100)
    visit(manager, 400)
    fill(manager, 2)
    assert not is_cached(manager, 100)
    assert is_cached(manager, 400)


def test_a_reservation_ends_what_lives_for_a_time() -> None:
    clock = Clock()
    manager = make(num_pages=3, clock=clock)
    visit(manager, 100, cache_priority=90, cache_ttl=10)
    clock.now += 10
    visit(manager, 200)
    fill(manager, 2)
    assert is_cached(manager, 200)
    assert not is_cached(manager, 100)


def test_a_running_batch_ends_what_lives_for_a_time() -> None:
    clock = Clock()
    manager = make(num_pages=3, clock=clock)
    visit(manager, 100, cache_priority=90, cache_ttl=10)
    visit(manager, 200, cache_priority=80)
    batch = manager.open_batch()
    batch.admit([np.arange(500, 516)])
    clock.now += 10
    batch.advance(np.array([1]))  # Takes a page.
    assert not is_cached(manager, 100)
    assert is_cached(manager, 200)


def test_without_an_end_a_priority_stays() -> None:
    clock = Clock()
    manager = make(num_pages=3, clock=clock)
    visit(manager, 100, cache_priority=36)
    clock.now += 1e9
    visit(manager, 200)
    fill(manager, 2)
    assert is_cached(manager, 100)


def test_retention_is_set_at_any_time_and_only_raised() -> None:
    manager = make(num_pages=4)
    loop = ByteLoop(manager)
    request = loop.serve(range(100, 117))
    manager.set_retention(request, priority=60)
    manager.set_retention(request, priority=10)
    loop.leave(request)
    visit(manager, 200, cache_priority=59)
    visit(manager, 300)
    fill(manager, 3)
    assert is_cached(manager, 100)
    assert not is_cached(manager, 200)


def test_what_is_committed_later_is_kept_too() -> None:
    manager = make(num_pages=4)
    loop = ByteLoop(manager)
    request = claimed(manager, range(100, 117))
    manager.set_retention(request, priority=60)
    loop.step(request)
    loop.leave(request)
    visit(manager, 200)
    fill(manager, 3)
    assert is_cached(manager, 100)


def test_a_fork_inherits_retention_unless_it_has_its_own() -> None:
    for own, kept in (({}, True), ({"cache_priority": 5}, False)):
        manager = make(num_pages=4)
        loop = ByteLoop(manager)
        parent = loop.serve([1], cache_priority=60)
        branch = Request([1, *range(100, 117)], **own)  # type: ignore[arg-type]
        manager.fork(parent, branch)
        loop.step(branch)
        loop.leave(branch, parent)
        visit(manager, 300)
        fill(manager, 3)
        heir = claimed(manager, [1, *range(100, 117)])
        assert (manager.adopt_prefix(heir) > 0) == kept


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"priority": -1}, "from 0 to 100, got -1"),
        ({"priority": 101}, "from 0 to 100, got 101"),
        ({"priority": 50, "ttl": 0.0}, "more than 0 seconds"),
        ({"priority": 50, "ttl": -1.0}, "more than 0 seconds"),
        ({"priority": 50, "ttl": nan}, "more than 0 seconds"),
        ({"priority": 35, "ttl": 1.0}, "above 35"),
    ],
)
def test_what_makes_no_sense_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    manager = make()
    request = claimed(manager, 20)
    with pytest.raises(RetentionError, match=message):
        manager.set_retention(request, **fields)
    wishes = {f"cache_{name}": value for name, value in fields.items()}
    other = claimed(manager, 20, **wishes)
    with pytest.raises(RetentionError, match=message):
        manager.maybe_reserve(other)
    with pytest.raises(RetentionError, match=message):
        manager.fetch([other])
    manager.release(other.request_id)
    parent = ByteLoop(manager).serve(20)
    branch = Request([*range(20), 1], **wishes)
    with pytest.raises(RetentionError, match=message):
        manager.fork(parent, branch)
    assert not manager.contains(branch.request_id)


def test_an_endless_time_is_none() -> None:
    manager = make()
    request = claimed(manager, 20)
    manager.set_retention(request, priority=50, ttl=inf)
    assert manager.maybe_reserve(request)


def test_only_claimed_requests_are_retained() -> None:
    with pytest.raises(UnknownRequestError):
        make().set_retention(Request([1]), priority=50)


def test_each_replica_keeps_its_own() -> None:
    manager = make_replicas(2, num_pages=3, copy_prefixes_across_replicas=False)
    request = claimed(manager, range(100, 117), on=1, cache_priority=50)
    manager.fetch([request])
    request.update(7)
    manager.step([request])
    manager.release(request.request_id)
    filler = claimed(manager, 32, on=1)
    assert manager.maybe_reserve(filler)
    heir = claimed(manager, range(100, 117), on=1)
    assert manager.adopt_prefix(heir) == 16


def test_a_clock_that_fails_changes_nothing() -> None:
    clock = Clock()
    manager = make(clock=clock)
    parent = ByteLoop(manager).serve(20)
    branch = Request([*range(20), 1], cache_priority=50, cache_ttl=1)
    request = claimed(manager, 40, cache_priority=50)
    clock.now = nan
    with pytest.raises(RetentionError, match="finite"):
        manager.fork(parent, branch)
    assert not manager.contains(branch.request_id)
    with pytest.raises(RetentionError, match="finite"):
        manager.maybe_reserve(request)
    clock.now = 2000.0
    manager.fork(parent, branch)
    assert manager.maybe_reserve(request)
