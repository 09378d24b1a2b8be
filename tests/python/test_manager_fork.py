"""Requests that branch off others, seen in the pools' own bytes."""

from typing import Any

import pytest

from byte_loop import ByteLoop
from kvcache import KVCacheMetrics, PagedKVCacheManager, Request
from kvcache.errors import (
    ClaimError,
    NotOfferedError,
    RequestStateError,
    UnknownRequestError,
)
from managers import claimed, make, make_replicas, pages
from max_tokens import TOKEN_BUFFER

pytestmark = pytest.mark.usefixtures("either_core")


def branch_of(
    request: Request, *more: int, length: int | None = None, **fields: Any
) -> Request:
    """A request that begins with another one's processed tokens."""
    end = request.tokens.processed_length if length is None else length
    return Request([*request.tokens.all[:end].tolist(), *more], **fields)


def state_of(manager: PagedKVCacheManager, *requests: Request) -> object:
    return (
        [(r.tokens.processed_length, r.tokens.active_length) for r in requests],
        [pages(manager, r) for r in requests if manager.contains(r.request_id)],
        manager.num_free_blocks,
        manager.metrics,
    )


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("first", ["parent", "branch"])
def test_a_fork_goes_its_own_way_behind_what_is_shared(
    caching: bool, first: str
) -> None:
    manager = make(caching=caching)
    loop = ByteLoop(manager)
    parent = loop.serve(20)
    branch = branch_of(parent, 99)
    manager.fork(parent, branch)
    assert pages(manager, branch) == pages(manager, parent)
    assert branch.tokens.processed_length == 20
    assert manager.num_free_blocks == 8
    order = [parent, branch] if first == "parent" else [branch, parent]
    for step in range(30):
        for request in order:
            loop.step(request, token=step if request is branch else 7)
    # A begun page is copied for the first that writes, and for no other.
    assert manager._replicas.members[0].core.num_copied == 1
    assert pages(manager, parent)[0] == pages(manager, branch)[0]
    assert pages(manager, parent)[1] != pages(manager, branch)[1]
    loop.leave(parent)
    loop.step(branch)
    loop.leave(branch)
    assert manager.num_free_blocks == 10


def test_a_fork_counts_what_is_shared_as_cached() -> None:
    manager = make()
    loop = ByteLoop(manager)
    parent = loop.serve(20)
    manager.fork(parent, branch := branch_of(parent, 8, 9))
    assert manager.metrics == KVCacheMetrics(20, 20)
    loop.step(branch)
    assert manager.metrics == KVCacheMetrics(22, 20)


def test_both_of_a_batch_get_a_page_of_their_own() -> None:
    manager = make()
    loop = ByteLoop(manager)
    parent = loop.serve(20)
    manager.fork(parent, branch := branch_of(parent, 99))
    for _ in range(14):
        loop.step(parent, branch)


def test_a_shorter_beginning_can_be_shared() -> None:
    manager = make()
    loop = ByteLoop(manager)
    parent = loop.serve(50)
    edited = branch_of(parent, 90, 91, 92, length=37)
    manager.fork(parent, edited, length=37)
    assert edited.tokens.processed_length == 37
    assert pages(manager, edited) == pages(manager, parent)[:3]
    loop.step(edited, parent)
    loop.step(parent, edited)
    again = branch_of(edited, 1, length=37)
    manager.fork(edited, again, length=37)
    loop.step(again, edited, parent)


def test_what_is_computed_but_not_committed_is_shared() -> None:
    manager = make()
    loop = ByteLoop(manager)
    parent = claimed(manager, 40)
    loop.run(parent)
    parent.update(7)  # No `step`.
    manager.fork(parent, branch := branch_of(parent, 9))
    assert manager.num_free_blocks == 7
    for _ in range(20):
        loop.step(branch, parent)
    third = claimed(manager, 40)
    assert manager.maybe_reserve(third)
    assert third.tokens.processed_length == 32
    loop.step(third)


def test_a_fork_whose_pages_another_request_committed_goes_on() -> None:
    manager = make(num_pages=20)
    loop = ByteLoop(manager)
    parent, twin = claimed(manager, 40), claimed(manager, 40)
    loop.run(parent, twin)
    parent.update(7)
    twin.update(7)
    manager.fork(parent, branch := branch_of(parent, 9))
    manager.step([twin])
    manager.step([parent])
    for _ in range(20):
        loop.step(branch, parent, twin)


def test_a_parent_that_is_reserved_does_not_run_short() -> None:
    manager = make(num_pages=3)
    loop = ByteLoop(manager)
    parent = loop.serve(20)
    assert manager.maybe_reserve(parent)
    manager.fork(parent, branch := branch_of(parent, 9))
    other = claimed(manager, range(300, 310))
    assert manager.maybe_reserve(other)
    assert not manager.maybe_reserve(branch)
    loop.step(parent)  # Behind what the branch can see.
    loop.leave(other)
    assert manager.maybe_reserve(branch)
    loop.step(branch, parent)


def test_the_page_of_a_fork_is_copied_for_a_parent_that_goes_first() -> None:
    manager = make()
    loop = ByteLoop(manager)
    parent = loop.serve(20)
    manager.fork(parent, branch := branch_of(parent, 9))
    old = pages(manager, branch)
    assert manager.maybe_reserve(parent, 20)
    assert pages(manager, parent)[1] not in old
    assert pages(manager, branch) == old
    loop.step(parent)
    loop.step(branch, parent)
    assert pages(manager, branch) == old


def test_a_chunk_of_a_fork_moves_behind_what_is_shared() -> None:
    manager = make()
    loop = ByteLoop(manager)
    parent = loop.serve(20)
    branch = branch_of(parent, *range(50, 60))
    branch.tokens.chunk(5)
    manager.fork(parent, branch)
    assert branch.tokens.processed_length == 20
    assert branch.tokens.current_position == 25
    loop.step(branch)
    loop.step(branch, parent)


def test_shared_pages_cannot_be_rewound_before_they_are_truncated() -> None:
    manager = make(caching=False)
    loop = ByteLoop(manager)
    parent = loop.serve(40)
    manager.fork(parent, branch := branch_of(parent, 9, length=20), length=20)
    loop.step(branch, parent)
    parent.tokens.rewind_processing(parent.tokens.processed_length - 20)
    with pytest.raises(RequestStateError, match="shared by a fork"):
        manager.maybe_reserve(parent)
    with pytest.raises(RequestStateError, match="shared by a fork"):
        manager.fetch([parent])
    manager.truncate(parent)
    loop.step(parent)
    loop.step(branch, parent)


def test_a_fork_cannot_be_rewound_into_its_parents_pages() -> None:
    manager = make(caching=False)
    loop = ByteLoop(manager)
    parent = loop.serve(40)
    manager.fork(parent, branch := branch_of(parent, 9))
    loop.step(branch)
    branch.tokens.rewind_processing(20)
    with pytest.raises(RequestStateError, match="40 were shared by a fork"):
        manager.fetch([branch])
    manager.truncate(branch)
    loop.step(branch, parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": [], "length": 20}, "share from 0 to 19 tokens"),
        ({"length": 21}, "share from 0 to 20 tokens"),
        ({"length": -1}, "share from 0 to 20 tokens"),
        ({"salt": "b"}, "the salt and the model"),
        ({"first": 5}, "begin with the 20 tokens"),
        ({"skip": 1}, "nothing is computed for"),
    ],
)
def test_what_does_not_fit_cannot_branch_off(
    change: dict[str, Any], message: str
) -> None:
    manager = make()
    loop = ByteLoop(manager)
    parent = loop.serve(20, cache_salt="a")
    tokens = [change.get("first", 0), *range(1, 20), *change.get("more", [9])]
    branch = Request(tokens, cache_salt=change.get("salt", "a"))
    branch.tokens.skip_processing(change.get("skip", 0))
    before = state_of(manager, parent, branch)
    with pytest.raises(RequestStateError, match=message):
        manager.fork(parent, branch, length=change.get("length"))
    assert not manager.contains(branch.request_id)
    assert state_of(manager, parent, branch) == before


def test_claims_of_forks_are_checked() -> None:
    manager = make(max_batch_size=2)
    loop = ByteLoop(manager)
    parent = loop.serve(20)
    branch = branch_of(parent, 9)
    with pytest.raises(UnknownRequestError):
        manager.fork(branch, branch_of(parent, 9))
    with pytest.raises(ClaimError, match="already claimed"):
        manager.fork(parent, branch_of(parent, 9, request_id=parent.request_id))
    manager.fork(parent, branch)
    before = state_of(manager, parent, branch)
    with pytest.raises(ClaimError, match="all 2 are claimed"):
        manager.fork(parent, branch_of(parent, 9))
    assert state_of(manager, parent, branch) == before
    loop.leave(branch)
    pictured = branch_of(parent, 9)
    pictured.images = [object()]  # type: ignore[attr-defined]
    with pytest.raises(NotOfferedError, match="images"):
        manager.fork(parent, pictured)
    assert not manager.contains(pictured.request_id)


def test_a_fork_stays_on_the_replica_of_its_parent() -> None:
    manager = make_replicas(2)
    parent = claimed(manager, 20, on=1)
    manager.fetch([parent])
    parent.update(7)
    manager.fork(parent, branch := branch_of(parent, 9))
    assert manager.get_replica(branch) == 1
    manager.release(branch.request_id)
    assert not manager.contains(branch.request_id)


def test_tokens_of_max_branch_off_and_go_back() -> None:
    manager = make()
    loop = ByteLoop(manager)
    parent = loop.serve(20)
    branch = branch_of(parent, 1, 2, 3)
    branch._tokens = TOKEN_BUFFER(branch.tokens.all.copy())
    manager.fork(parent, branch)
    assert branch.tokens.processed_length == 20
    loop.step(branch, parent)
    manager.truncate(branch, 18)
    assert branch.tokens.active_length == 6
    loop.step(branch, parent)
