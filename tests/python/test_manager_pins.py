"""Pages that stay when their request leaves."""

from typing import Any

import numpy as np
import pytest

from byte_loop import ByteLoop
from kvcache import PagedKVCacheManager, Request
from kvcache.errors import (
    InvalidParamsError,
    PinLimitError,
    UnknownPinError,
    UnknownRequestError,
)
from managers import claimed, make, make_replicas, pages

pytestmark = pytest.mark.usefixtures("either_core")


def visit(manager: PagedKVCacheManager, tokens: Any) -> Request:
    return ByteLoop(manager).serve(tokens)


def flood(manager: PagedKVCacheManager, num_pages: int) -> None:
    """Hands pages out that are free."""
    request = claimed(manager, range(5000, 5000 + num_pages * 16))
    assert manager.maybe_reserve(request)
    manager.release(request.request_id)


def test_what_is_pinned_is_not_evicted() -> None:
    manager = make()
    loop = ByteLoop(manager)
    request = loop.serve(40)
    pin = manager.pin(request)
    assert (pin.replica, pin.num_pages) == (0, 2)
    assert manager.num_pinned_blocks == 2
    loop.leave(request)
    assert manager.num_free_blocks == 8
    flood(manager, 8)
    heir = claimed(manager, 40)
    assert manager.maybe_reserve(heir)
    assert heir.tokens.processed_length == 32
    loop.step(heir)
    loop.leave(heir)
    manager.unpin(pin)
    assert manager.num_pinned_blocks == 0
    assert manager.num_free_blocks == 10
    assert manager.adopt_prefix(claimed(manager, 40)) == 32  # Cached, for now.


def test_what_is_let_go_can_be_evicted() -> None:
    manager = make()
    loop = ByteLoop(manager)
    request = loop.serve(40)
    pin = manager.pin(request)
    loop.leave(request)
    manager.unpin(pin)
    flood(manager, 10)
    assert manager.adopt_prefix(claimed(manager, 40)) == 0


def test_a_reset_leaves_what_is_pinned() -> None:
    manager = make()
    request = visit(manager, 40)
    manager.pin(request)
    manager.release(request.request_id)
    manager.reset_prefix_cache()
    assert manager.adopt_prefix(claimed(manager, 40)) == 32


def test_a_request_goes_on_and_back_while_it_is_pinned() -> None:
    manager = make()
    loop = ByteLoop(manager)
    request = loop.serve(40)
    pin = manager.pin(request)
    for _ in range(12):
        loop.step(request)
    manager.truncate(request, 20)
    request.tokens._array[20 : len(request.tokens)] = 99
    loop.step(request)
    heir = claimed(manager, 40)
    assert manager.maybe_reserve(heir)
    assert heir.tokens.processed_length == 32
    loop.step(heir, request)
    manager.unpin(pin)
    loop.step(heir, request)


def test_pages_of_several_pins_count_once() -> None:
    manager = make(num_pages=6, max_pinned_share=0.5)
    request = visit(manager, 40)
    pins = [manager.pin(request) for _ in range(3)]
    assert manager.num_pinned_blocks == 2
    manager.release(request.request_id)
    other = visit(manager, [*range(16), *range(80, 96), 1])
    pins.append(manager.pin(other))
    assert manager.num_pinned_blocks == 3
    manager.release(other.request_id)
    for pin, left in zip(pins, [3, 3, 2, 0], strict=True):
        manager.unpin(pin)
        assert manager.num_pinned_blocks == left
    assert manager.num_free_blocks == 6


def test_no_more_than_a_share_of_the_pages_is_pinned() -> None:
    manager = make(max_pinned_share=0.25)  # Two pages of ten.
    request = visit(manager, 50)
    before = manager.num_free_blocks
    with pytest.raises(PinLimitError, match="3 pinned pages of replica 0"):
        manager.pin(request)
    assert manager.num_pinned_blocks == 0
    manager.release(request.request_id)
    assert manager.num_free_blocks == before + 4
    fits = visit(manager, 40)
    manager.pin(fits)


def test_there_are_so_many_pins() -> None:
    manager = make(max_pins=2)
    request = visit(manager, 20)
    pins = [manager.pin(request) for _ in range(2)]
    with pytest.raises(PinLimitError, match="there are 2 already"):
        manager.pin(request)
    manager.unpin(pins[0])
    manager.pin(request)


def test_pins_take_no_claim_away() -> None:
    manager = make(max_batch_size=2, max_pins=3)
    first = visit(manager, 20)
    for _ in range(3):
        manager.pin(first)
    visit(manager, 20)
    assert manager.num_pinned_blocks == 1


def test_rows_may_have_the_sequences_of_pins() -> None:
    manager = make(max_batch_size=1, max_pins=1)
    batch = manager.open_batch(max_rows=2)
    batch.admit([np.array([1])])
    request = visit(manager, 20)
    with pytest.raises(PinLimitError, match="rows of running batches"):
        manager.pin(request)
    batch.leave([0])
    manager.pin(request)


def test_a_pin_is_let_go_once_and_by_its_own_manager() -> None:
    manager = make()
    pin = manager.pin(visit(manager, 20))
    with pytest.raises(UnknownPinError, match="wanted a pin of this manager"):
        make().unpin(pin)
    manager.unpin(pin)
    with pytest.raises(UnknownPinError):
        manager.unpin(pin)
    with pytest.raises(UnknownRequestError):
        manager.pin(Request([1]))


def test_what_is_not_committed_is_not_pinned() -> None:
    for manager in (make(), make(caching=False)):
        request = claimed(manager, 40)
        assert manager.maybe_reserve(request)
        pin = manager.pin(request)
        assert pin.num_pages == manager.num_pinned_blocks == 0
        manager.release(request.request_id)
        assert manager.num_free_blocks == 10
        manager.unpin(pin)


def test_pages_of_a_fork_that_wait_to_be_committed_are_not_pinned() -> None:
    manager = make(num_pages=20)
    loop = ByteLoop(manager)
    parent, twin = claimed(manager, 40), claimed(manager, 40)
    loop.run(parent, twin)
    for request in (parent, twin):
        request.update(7)
    branch = Request([*range(40), 9])
    manager.fork(parent, branch)
    manager.step([twin])
    manager.step([parent])  # Its pages are the branch's too: it stays.
    assert manager.pin(parent).num_pages == 0
    assert manager.pin(twin).num_pages == 2


def test_each_replica_has_pins_of_its_own() -> None:
    manager = make_replicas(2, max_pinned_share=0.25)
    for on in (0, 1):
        request = claimed(manager, range(100 * on, 100 * on + 40), on=on)
        manager.fetch([request])
        request.update(7)
        manager.step([request])
        pin = manager.pin(request)
        assert (pin.replica, pin.num_pages) == (on, 2)
        assert len(pages(manager, request)) == 3
    assert manager.num_pinned_blocks == 4
    manager.unpin(pin)
    assert manager.num_pinned_blocks == 2


@pytest.mark.parametrize(
    "changes",
    [{"max_pinned_share": -0.1}, {"max_pinned_share": 1.1}, {"max_pins": -1}],
)
def test_limits_are_in_range(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParamsError, match="wanted"):
        make(**changes)
