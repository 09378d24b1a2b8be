import pytest

from core_owner import Owner, Seq
from core_twins import batch_of, make_twins
from kvcache.core.interface import Move
from kvcache.errors import InsufficientPagesError, RequestStateError

COPY, OFFLOAD, ONLOAD = Move.COPY, Move.OFFLOAD, Move.ONLOAD


def owner_of(num_pages: int, num_host_pages: int = 0) -> Owner:
    return Owner(
        make_twins(
            num_pages,
            4,
            6,
            enable_prefix_caching=True,
            num_host_pages=num_host_pages,
        )
    )


def admit(owner: Owner, tokens: list[int], **options: int) -> Seq:
    seq = owner.claim(b"", tokens)
    assert owner.take([seq], [len(tokens)], num_steps=1, **options)
    return seq


def test_the_beginning_of_a_page_is_copied() -> None:
    owner = owner_of(4)
    owner.serve([1, 2, 3, 4])  # page 0
    seq = admit(owner, [1, 2, 9, 9, 9], min_partial=2)
    assert (seq.processed, owner.row(seq)) == (2, [1, 2])
    assert owner.moves == [[COPY, 0, 1]]
    owner.write(seq, 5)
    owner.commit([seq])
    assert owner.core.num_copied == 1


@pytest.mark.parametrize("min_partial", [3, None])
def test_too_short_a_beginning_is_computed(min_partial) -> None:
    owner = owner_of(4)
    owner.serve([1, 2, 3, 4])
    seq = admit(owner, [1, 2, 9, 9, 9], min_partial=min_partial)
    assert (seq.processed, owner.moves) == (0, [])


def test_a_part_follows_whole_pages() -> None:
    owner = owner_of(9)
    owner.serve([1, 2, 3, 4, 5, 6, 7, 8])  # pages 0, 1
    seq = admit(owner, [1, 2, 3, 4, 5, 6, 7, 9, 9], min_partial=1)
    assert (seq.processed, owner.row(seq)) == (7, [0, 2, 3])
    assert owner.moves == [[COPY, 1, 2]]


@pytest.mark.parametrize("length", range(1, 9))
def test_the_last_token_is_never_a_hit(length) -> None:
    owner = owner_of(9)
    owner.serve([1, 2, 3, 4, 5, 6, 7, 8])
    seq = admit(owner, list(range(1, length + 1)), min_partial=1)
    assert seq.processed == length - 1


def test_the_longest_beginning_wins_and_then_the_lowest_page() -> None:
    owner = owner_of(9)
    for tokens in ([1, 7, 7, 7], [1, 2, 8, 8], [1, 2, 6, 6]):
        owner.serve(tokens)  # pages 0, 1, 2
    admit(owner, [1, 2, 9, 9, 9], min_partial=1)
    assert owner.moves == [[COPY, 1, 3]]
    admit(owner, [1, 9], min_partial=1)
    assert owner.moves == [[COPY, 0, 5]]
    # Of two tokens the last one does not count: all three are as good.
    admit(owner, [1, 2], min_partial=1)
    assert owner.moves == [[COPY, 0, 6]]


def test_a_part_is_found_behind_what_was_committed() -> None:
    owner = owner_of(9)
    owner.serve([1, 2, 3, 4, 5, 6, 7, 8])  # pages 0, 1
    seq = owner.serve([1, 2, 3, 4])  # page 0 in the place of 2
    assert owner.row(seq) == [0]
    seq.tokens += [5, 6, 9]
    owner.take([seq], [3], num_steps=1, min_partial=1)
    assert (seq.processed, owner.row(seq)) == (6, [0, 3])
    assert owner.moves == [[COPY, 1, 3]]


def test_a_part_goes_into_a_page_that_is_there() -> None:
    owner = owner_of(9)
    seq = admit(owner, [1, 2, 9, 9])  # page 0, nothing is computed
    owner.serve([1, 2, 3, 4])  # page 1
    owner.take([seq], [4], num_steps=1, min_partial=1)
    assert (seq.processed, owner.row(seq)) == (2, [0])
    assert owner.moves == [[COPY, 1, 0]]


def test_a_source_is_not_evicted_before_it_is_copied() -> None:
    owner = owner_of(3)
    owner.release(owner.serve([1, 2, 3, 4]))  # page 0
    owner.release(owner.serve([5, 6, 7, 8]))  # page 1
    seq = admit(owner, [1, 2, 9, 9, 9, 9, 9, 9], min_partial=1)
    assert owner.moves == [[COPY, 0, 2]]
    assert owner.row(seq) == [2, 1]
    assert (owner.core.num_evicted, owner.core.num_cached) == (1, 1)


def test_what_was_copied_is_let_go_in_the_order_of_the_batch() -> None:
    owner = owner_of(6)
    first = owner.serve([5] * 8)  # pages 0, 1
    owner.truncate_to(first, 6)
    owner.release(owner.serve([1, 2, 3, 4]))  # page 2
    second = owner.claim(b"", [1, 2, 9])
    batch = [second, first]
    first.tokens[6:] = [8]
    owner.take(batch, [3, 1], num_steps=1, min_partial=1)
    assert owner.moves == [[COPY, 1, 4], [COPY, 2, 3]]
    assert owner.drain() == [5, 2, 1]


def test_a_part_is_given_up_where_pages_would_be_short() -> None:
    owner = owner_of(2)
    owner.release(owner.serve([1, 2, 3, 4]))  # page 0
    seq = admit(owner, [1, 2, 9, 9, 9, 9, 9, 9], min_partial=1)
    assert (seq.processed, owner.moves) == (0, [])
    assert owner.row(seq) == [1, 0]


def test_a_shortage_is_counted_without_parts() -> None:
    owner = owner_of(2)
    owner.release(owner.serve([1, 2, 3, 4]))
    seq = owner.claim(b"", [1, 2, *[9] * 7])
    batch = batch_of((seq.id, 0, 9, seq.tokens))
    with pytest.raises(InsufficientPagesError) as raised:
        owner.core.reserve(batch, num_steps=1, min_partial=1)
    assert (raised.value.wanted, raised.value.free) == (3, 2)


def test_pages_of_the_host_are_not_copied_in_part() -> None:
    owner = owner_of(1, num_host_pages=1)
    owner.release(owner.serve([1, 2, 3, 4]))
    seq = admit(owner, [1, 2, 9], min_partial=1)
    assert (seq.processed, owner.moves) == (0, [[OFFLOAD, 0, 1]])
    probe = owner.core.probe(b"", batch_of((0, 0, 1, [1, 2, 9])).tokens[0])
    assert (probe.pages.tolist(), probe.partial) == ([], 2)


def test_a_part_moves_a_chunk_on() -> None:
    owner = owner_of(9)
    owner.serve([1, 2, 3, 4])
    seq = owner.claim(b"", [1, 2, 3, *[9] * 9])
    owner.take([seq], [2], num_steps=1, min_partial=1)
    # The window 0 to 2 is covered by the hit of 3; it is 3 to 5 now.
    assert (seq.processed, seq.end, owner.row(seq)) == (3, 5, [1, 2])


def test_bounds_must_make_sense() -> None:
    core = make_twins(1, 4, 1)
    batch = batch_of((core.claim(b""), 0, 1, [0]))
    with pytest.raises(RequestStateError, match="1 token of a page, got 0"):
        core.reserve(batch, num_steps=1, min_partial=0)
    for take in (core.adopt, lambda b, **k: core.reserve(b, num_steps=1, **k)):
        with pytest.raises(RequestStateError, match="0 pages to load, got -1"):
            take(batch, max_onload=-1)
