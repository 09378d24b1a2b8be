import numpy as np
import pytest

from core_owner import Owner
from core_twins import batch_of, make_twins
from kvcache.core.interface import Move
from kvcache.errors import (
    ClaimError,
    InsufficientPagesError,
    RequestStateError,
)


def owner_of(
    num_pages: int = 9, *, caching: bool = True, num: int = 3
) -> Owner:
    return Owner(make_twins(num_pages, 4, num, enable_prefix_caching=caching))


@pytest.mark.parametrize("caching", [True, False])
def test_the_one_that_writes_first_copies_the_begun_page(caching) -> None:
    owner = owner_of(caching=caching)
    trunk = owner.serve([1, 2, 3, 4, 5, 6])
    fork = owner.fork(trunk, 6, [8])
    assert owner.core.rows([trunk.id, fork.id]) == [[0, 1], [0, 1]]
    assert owner.core.num_free == 7
    owner.take([fork], [1], num_steps=1)
    assert owner.moves == [[Move.COPY, 1, 2]]
    assert owner.core.rows([trunk.id, fork.id]) == [[0, 1], [0, 2]]
    owner.take([trunk], [1], num_steps=1)  # Alone with page 1 now.
    assert owner.moves == []
    owner.write(fork, 7)
    owner.write(trunk, 7)
    owner.model.check([0, 2], 7, (b"", 1, 2, 3, 4, 5, 6, 8))
    assert owner.core.num_copied == 1


def test_two_that_write_at_once_both_copy() -> None:
    owner = owner_of()
    trunk = owner.serve([1, 2, 3, 4, 5])
    fork = owner.fork(trunk, 5, [8])
    owner.take([trunk, fork], [1, 1], num_steps=1)
    assert owner.moves == [[Move.COPY, 1, 2], [Move.COPY, 1, 3]]
    assert owner.core.rows([trunk.id, fork.id]) == [[0, 2], [0, 3]]
    assert owner.core.num_free == 9 - 3  # Page 1 is blank.


def test_a_fork_between_pages_copies_nothing() -> None:
    owner = owner_of()
    trunk = owner.serve([1, 2, 3, 4, 5])
    fork = owner.fork(trunk, 4, [6, 7])
    assert owner.row(fork) == [0]
    behind = batch_of((fork.id, 3, 1, fork.tokens))  # Page 0 is committed.
    owner.raises(RequestStateError, "reserve", behind, num_steps=1)
    owner.take([fork], [2], num_steps=1)
    assert (owner.row(fork), owner.moves) == ([0, 2], [])


def test_a_fork_outlives_what_it_came_from() -> None:
    owner = owner_of()
    trunk = owner.serve([1, 2, 3, 4, 5])
    fork = owner.fork(trunk, 5, [6])
    owner.release(trunk)
    assert owner.core.num_free == 7
    owner.take([fork], [1], num_steps=1)
    assert (owner.row(fork), owner.moves) == ([0, 1], [])
    owner.write(fork, 6)


def test_a_fork_wants_tokens_that_pages_take_and_a_free_sequence() -> None:
    core = make_twins(4, 4, 1)
    seq = core.claim(b"")
    core.reserve(batch_of((seq, 0, 5, [0] * 5)), num_steps=1)
    for processed in (-1, 9):
        with pytest.raises(RequestStateError, match=f"got {processed}"):
            core.fork(seq, processed)
    with pytest.raises(ClaimError, match="all 1 are claimed"):
        core.fork(seq, 8)
    assert core.pages(seq).tolist() == [0, 1]


def test_truncating_gives_the_tail_back_first() -> None:
    owner = owner_of(4)
    seq = owner.serve([0] * 16)
    owner.truncate_to(seq, 5)
    assert owner.row(seq) == [0, 1]
    assert owner.drain() == [3, 2]
    owner.truncate_to(seq, 99)
    assert owner.row(seq) == [0, 1]
    with pytest.raises(RequestStateError, match="at least 0 tokens, got -1"):
        owner.core.truncate(seq.id, -1)


def test_a_findable_page_is_copied_before_it_is_written_on() -> None:
    owner = owner_of()
    seq = owner.serve([1, 2, 3, 4, 5, 6, 7, 8])
    owner.truncate_to(seq, 6)
    seq.tokens[6:] = [9, 9]
    owner.take([seq], [2], num_steps=1)
    assert owner.moves == [[Move.COPY, 1, 2]]
    owner.write(seq, 8)
    owner.commit([seq])
    assert owner.core.num_cached == 1  # Page 1 is still findable.
    again = owner.claim(b"", [1, 2, 3, 4, 5, 6, 7, 8, 9])
    owner.take([again], [9])
    assert (owner.row(again), again.processed) == ([0, 1], 8)


def test_going_back_without_truncating_is_refused() -> None:
    owner = owner_of()
    trunk = owner.claim(b"", [1] * 8)
    owner.take([trunk], [8], num_steps=1)
    owner.write(trunk, 8)
    owner.fork(trunk, 8, [2])
    batch = batch_of((trunk.id, 4, 1, [1] * 4 + [3]))
    owner.raises(RequestStateError, "reserve", batch, num_steps=1)
    owner.raises(RequestStateError, "adopt", batch)
    owner.truncate_to(trunk, 4)
    owner.core.reserve(batch, num_steps=1)
    assert owner.row(trunk) == [0, 2]


def test_pages_that_a_sibling_committed_count_as_committed() -> None:
    owner = owner_of()
    trunk = owner.claim(b"", [1] * 8)
    owner.take([trunk], [8], num_steps=1)
    owner.write(trunk, 8)
    fork = owner.fork(trunk, 8, [2])
    owner.commit([trunk, fork])
    assert owner.core.rows([trunk.id, fork.id]) == [[0, 1], [0, 1]]
    owner.core.check()
    other = batch_of((fork.id, 4, 1, [9] * 9))  # Committed; nothing is due.
    owner.core.commit(other)
    owner.raises(RequestStateError, "reserve", other, num_steps=1)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_page_is_never_findable_with_two_contents(at_once) -> None:
    owner = owner_of()
    trunk = owner.claim(b"", [1] * 8)
    owner.take([trunk], [8], num_steps=1)
    fork = owner.core.fork(trunk.id, 8)
    rows = [(trunk.id, 8, 1, [1] * 8), (fork, 8, 1, [1] * 7 + [2])]
    if not at_once:
        owner.core.commit(batch_of(rows.pop(0)))
    owner.raises(RequestStateError, "commit", batch_of(*rows))
    assert len(owner.core.probe(b"", np.ones(8, np.int64)).pages) == (
        0 if at_once else 2
    )


def test_a_shared_page_waits_where_another_holds_the_same() -> None:
    owner = owner_of()
    trunk = owner.claim(b"", [1] * 8)
    owner.take([trunk], [8], num_steps=1)
    owner.write(trunk, 8)
    fork = owner.fork(trunk, 8, [2])
    owner.release(owner.serve([1] * 4))  # page 2 holds what page 0 does
    owner.commit([trunk])
    assert owner.row(trunk) == [0, 1]
    owner.release(fork)
    owner.commit([trunk])
    assert owner.row(trunk) == [2, 1]
    owner.core.check()


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_page_given_up_is_free_if_nobody_shares_it(is_shared) -> None:
    owner = owner_of(3)
    trunk = owner.claim(b"", [1] * 4)
    owner.take([trunk], [4], num_steps=1)  # page 0, not committed
    fork = owner.core.fork(trunk.id, 4)
    owner.serve([1] * 4, space=b"")  # page 1 holds the same
    owner.release(owner.seqs[-1])
    if not is_shared:
        owner.release(trunk)
    batch = batch_of((fork, 0, 1, [1] * 4 + [9] * 5))
    if is_shared:  # Page 1 is a hit, page 2 is free, one more is wanted.
        with pytest.raises(InsufficientPagesError) as raised:
            owner.core.reserve(batch, num_steps=8)
        assert (raised.value.wanted, raised.value.free) == (2, 1)
    else:
        owner.core.reserve(batch, num_steps=8)
        assert owner.core.pages(fork).tolist() == [1, 2, 0]


def test_a_page_given_up_for_itself_is_not_free() -> None:
    owner = owner_of(3)
    seq = owner.serve([1] * 8)  # pages 0, 1
    owner.core.truncate(seq.id, 6)
    batch = batch_of((seq.id, 4, 1, [1] * 9))
    with pytest.raises(InsufficientPagesError) as raised:
        owner.core.reserve(batch, num_steps=5)
    assert (raised.value.wanted, raised.value.free) == (2, 1)
    granted = owner.core.reserve(batch, num_steps=4)
    assert (granted.hits.tolist(), len(granted.moves)) == ([4], 0)
    assert owner.row(seq) == [0, 1, 2]


def test_copies_count_as_wanted() -> None:
    owner = owner_of(3)
    trunk = owner.serve([1] * 6)
    fork = owner.fork(trunk, 6, [2])
    batch = batch_of((fork.id, 6, 1, fork.tokens))
    with pytest.raises(InsufficientPagesError) as raised:
        owner.core.reserve(batch, num_steps=3)
    assert (raised.value.wanted, raised.value.free) == (2, 1)
    assert owner.core.rows([fork.id]) == [[0, 1]]


def test_dropping_takes_all_that_follows_and_spares_who_holds_it() -> None:
    owner = owner_of(num=4)
    trunk = owner.serve([1] * 12)  # pages 0, 1, 2
    fork = owner.fork(trunk, 12, [3])
    owner.release(owner.serve([1] * 8 + [7] * 4))  # page 3 follows page 1
    owner.release(owner.serve([1] * 4 + [8] * 4))  # page 4 follows page 0
    assert owner.core.num_cached == 2
    owner.core.drop(trunk.id, 1)
    assert owner.core.rows([trunk.id, fork.id]) == [[0, 1, 2]] * 2
    assert owner.core.num_cached == 1  # Page 4; page 3 is blank.
    assert owner.core.num_evicted == 0
    probe = owner.core.probe(b"", np.ones(12, np.int64))
    assert probe.pages.tolist() == [0]
    owner.core.commit(batch_of((fork.id, 12, 1, [1] * 12)))  # Due again.
    probe = owner.core.probe(b"", np.ones(12, np.int64))
    assert probe.pages.tolist() == [0, 1, 2]
    owner.core.drop(trunk.id, 1)
    # Both may begin again behind page 0.
    for seq in (trunk, fork):
        owner.truncate_to(seq, 4)
        owner.core.adopt(batch_of((seq.id, 4, 1, [1] * 5)))
    with pytest.raises(RequestStateError, match="from 0 on, got -1"):
        owner.core.drop(trunk.id, -1)
