import numpy as np
import pytest

from core_owner import Owner, Seq
from core_twins import batch_of, make_twins
from kvcache.core.interface import Move
from kvcache.errors import InsufficientPagesError, PageStateError

COPY, OFFLOAD, ONLOAD = Move.COPY, Move.OFFLOAD, Move.ONLOAD


def owner_of(num_pages: int, num_host_pages: int) -> Owner:
    return Owner(
        make_twins(
            num_pages,
            2,
            4,
            enable_prefix_caching=True,
            num_host_pages=num_host_pages,
        )
    )


def push_out(owner: Owner) -> list[list[int]]:
    """Evicts every cached page of the device; returns what moves."""
    owner.drain()
    moves = owner.moves
    owner.release(owner.seqs[-1])
    return moves


def on_host(num_pages: int = 2, num_host_pages: int = 2) -> Owner:
    """Returns an owner whose host holds the tokens 1 to 4."""
    owner = owner_of(num_pages, num_host_pages)
    owner.release(owner.serve([1, 2, 3, 4]))
    push_out(owner)
    return owner


def found(owner: Owner, *tokens: int) -> list[int]:
    probe = owner.core.probe(b"", np.array(tokens, np.int64))
    pages: list[int] = probe.pages.tolist()
    return pages


def counts(owner: Owner) -> tuple[int, int, int]:
    core = owner.core
    return core.num_evicted, core.num_offloaded, core.num_onloaded


def test_what_the_device_evicts_goes_to_the_host() -> None:
    owner = owner_of(2, 2)
    owner.release(owner.serve([1, 2, 3, 4]))  # pages 0, 1
    assert push_out(owner) == [[OFFLOAD, 1, 2], [OFFLOAD, 0, 3]]
    assert found(owner, 1, 2, 3, 4) == [3, 2]
    assert counts(owner) == (0, 2, 0)
    assert (owner.core.num_cached, owner.core.num_host_cached) == (0, 2)
    assert (owner.core.num_pages, owner.core.num_host_pages) == (2, 2)


def test_a_hit_on_the_host_comes_back() -> None:
    owner = on_host(3)  # Pages 4 and 3 of the host hold the prompt.
    seq = owner.claim(b"", [1, 2, 3, 4, 5])
    owner.take([seq], [5])
    assert owner.moves == [[ONLOAD, 4, 0], [ONLOAD, 3, 1]]
    assert (seq.processed, owner.row(seq)) == (4, [0, 1])
    assert owner.core.num_host_cached == 0
    assert counts(owner) == (0, 2, 2)
    owner.model.check(owner.row(seq), 4, (b"", 1, 2, 3, 4))


def test_pages_change_places() -> None:
    owner = on_host(2, 3)  # Pages 3 and 2 of the host hold the prompt.
    owner.release(owner.serve([7, 8, 9, 9]))
    (first, second) = found(owner, 7, 8, 9, 9)
    seq = owner.claim(b"", [1, 2, 3])
    owner.take([seq], [3])
    assert owner.moves == [[OFFLOAD, second, 4], [ONLOAD, 3, second]]
    assert owner.row(seq) == [second]
    assert found(owner, 7, 8, 9, 9) == [first, 4]
    assert found(owner, 1, 2, 3, 4) == [second, 2]


def test_a_full_host_loses_what_was_left_longest() -> None:
    owner = on_host(2, 2)
    owner.core.tick(7.0)
    owner.release(owner.serve([8, 8]))
    assert push_out(owner) == [[OFFLOAD, 0, 2]]
    assert found(owner, 1, 2, 3, 4) == [3]
    assert counts(owner)[0] == 1
    times = owner.core.evicted_at(b"", np.array([1, 2, 3, 4], np.int64))
    assert np.isnan(times[0])
    assert times[1] == 7.0


def test_the_host_keeps_by_priority_as_well() -> None:
    owner = owner_of(1, 2)
    for token, priority in ((1, 90), (2, 35), (3, 35)):
        seq = owner.claim(b"", [token] * 2)
        expires = 10.0 if priority == 90 else 0.0
        owner.core.set_retention(seq.id, priority=priority, expires=expires)
        owner.take([seq], [2], num_steps=1)
        owner.write(seq, 2)
        owner.commit([seq])
        owner.release(seq)
    assert [found(owner, t, t) for t in (1, 2, 3)] == [[1], [2], [0]]
    push_out(owner)
    assert [found(owner, t, t) for t in (1, 2, 3)] == [[1], [], [2]]
    owner.core.tick(10.0)  # Page 1 goes to the end of list 35, behind 2.
    owner.release(owner.serve([4, 4]))
    push_out(owner)
    assert [found(owner, t, t) for t in (1, 3, 4)] == [[1], [], [2]]
    owner.release(owner.serve([5, 5]))
    push_out(owner)
    assert [found(owner, t, t) for t in (1, 4, 5)] == [[], [2], [1]]


def test_two_that_hit_one_page_load_it_once() -> None:
    owner = on_host(4)
    (first, second) = found(owner, 1, 2, 3, 4)
    pair = [owner.claim(b"", [1, 2, 3, 4, t]) for t in (5, 6)]
    owner.take(pair, [1, 1])
    rows = [owner.row(seq) for seq in pair]
    assert rows[0] == rows[1]
    kinds = [move[:2] for move in owner.moves]
    assert kinds == [[ONLOAD, first], [ONLOAD, second]]
    owner.release(pair[0])
    assert owner.core.num_free == 2
    owner.core.check()


@pytest.mark.parametrize("most", [0, 1, 2])
def test_loads_can_be_capped(most) -> None:
    owner = on_host(3)
    seq = owner.claim(b"", [1, 2, 3, 4, 5])
    owner.take([seq], [5], max_onload=most)
    assert len(owner.moves) == len(owner.row(seq)) == most
    assert seq.processed == 2 * most


def test_a_cap_does_not_count_pages_of_the_device() -> None:
    owner = on_host(3)
    first = owner.claim(b"", [1, 2, 3])
    owner.take([first], [3])
    second = owner.claim(b"", [1, 2, 3, 4, 5])
    owner.take([second], [5], max_onload=1)
    assert second.processed == 4


def test_a_load_wants_room() -> None:
    owner = on_host(2)
    held = owner.serve([9])
    seq = owner.claim(b"", [1, 2, 3, 4, 5])
    batch = batch_of((seq.id, 0, 1, seq.tokens))
    with pytest.raises(InsufficientPagesError) as raised:
        owner.core.adopt(batch)
    assert (raised.value.wanted, raised.value.free) == (2, 1)
    owner.release(held)
    owner.core.adopt(batch)
    with pytest.raises(InsufficientPagesError) as raised:
        owner.core.reserve(batch_of((seq.id, 4, 1, seq.tokens)), num_steps=1)
    assert (raised.value.wanted, raised.value.free) == (1, 0)


def test_what_is_computed_again_leaves_the_host() -> None:
    owner = on_host(2)
    seq = owner.claim(b"", [1, 2, 3, 4])
    owner.take([seq], [4], num_steps=1, max_onload=0)
    row = owner.row(seq)
    owner.write(seq, 4)
    owner.commit([seq])
    assert owner.row(seq) == row == found(owner, 1, 2, 3, 4)
    assert owner.core.num_host_cached == 0
    assert counts(owner) == (0, 2, 0)


def test_an_eviction_without_room_on_the_host_loses_the_page() -> None:
    owner = owner_of(2, 1)
    owner.release(owner.serve([1, 2]))
    push_out(owner)  # Page 2 of the host holds it.
    for token in (7, 8):
        owner.release(owner.serve([token, token]))
    assert owner.core.num_cached == 2
    seq = owner.claim(b"", [1, 2, 3])
    owner.take([seq], [1])  # Retains page 2, so that nothing may go there.
    kinds = [move[0] for move in owner.moves]
    assert kinds == [ONLOAD]
    assert counts(owner) == (1, 1, 1)
    assert (owner.core.num_cached, owner.core.num_host_cached) == (1, 0)


def test_forgetting_is_for_both_tiers() -> None:
    owner = on_host(2)
    owner.release(owner.serve([7, 7]))
    owner.core.forget_cached()
    assert (owner.core.num_cached, owner.core.num_host_cached) == (0, 0)
    assert found(owner, 1, 2) == found(owner, 7, 7) == []
    assert counts(owner)[0] == 0


def test_a_failed_load_is_computed_again() -> None:
    owner = on_host(3)
    seq: Seq = owner.claim(b"", [1, 2, 3, 4, 5])
    owner.take([seq], [1], loses=True)  # The first page did not arrive.
    assert found(owner, 1, 2, 3, 4) == []
    assert (seq.processed, owner.row(seq)) == (0, [])
    owner.take([seq], [5], num_steps=1)
    assert owner.moves == []
    owner.write(seq, 5)
    owner.commit([seq])


def test_nothing_goes_to_the_host_without_caching() -> None:
    owner = Owner(make_twins(1, 2, 2, num_host_pages=2))
    owner.release(owner.serve([1, 2]))
    assert push_out(owner) == []


def test_a_page_of_the_host_is_forgotten_with_what_follows_it() -> None:
    owner = on_host(2, 3)
    owner.release(owner.serve([7, 7]))
    (first, second) = found(owner, 1, 2, 3, 4)
    owner.core.forget_page(second)
    assert found(owner, 1, 2, 3, 4) == [first]
    owner.core.forget_page(first)
    assert found(owner, 1, 2, 3, 4) == []
    assert owner.core.num_host_cached == 0
    owner.core.forget_page(first)  # It is not findable any more.
    owner.core.check()
    assert len(found(owner, 7, 7)) == 1
    assert counts(owner)[0] == 0


def test_a_forgotten_page_takes_those_along_that_follow_it() -> None:
    owner = on_host(2, 3)
    (first, _) = found(owner, 1, 2, 3, 4)
    owner.core.forget_page(first)
    assert owner.core.num_host_cached == 0


def test_who_holds_a_forgotten_page_has_committed_less() -> None:
    owner = owner_of(4, 2)
    seq = owner.serve([1, 2, 3, 4, 5])
    owner.core.forget_page(owner.row(seq)[1])
    assert found(owner, 1, 2, 3, 4) == owner.row(seq)[:1]
    assert owner.core.num_cached == 0
    owner.commit([seq])
    assert found(owner, 1, 2, 3, 4) == owner.row(seq)[:2]


@pytest.mark.parametrize("page", [-1, 6])
def test_there_is_no_such_page_to_forget(page) -> None:
    owner = owner_of(4, 2)
    owner.raises(PageStateError, "forget_page", page)
