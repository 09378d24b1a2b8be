from math import inf, nan

import pytest

from core_owner import Owner
from core_twins import batch_of, make_twins
from kvcache.core.entry import Entry, Key
from kvcache.core.retention import Retention, RetentionClock
from kvcache.errors import RetentionError


def owner_of(num_pages: int, page_size: int = 1) -> Owner:
    return Owner(
        make_twins(num_pages, page_size, 5, enable_prefix_caching=True)
    )


def test_the_lowest_priority_is_evicted_first_and_then_the_oldest() -> None:
    owner = owner_of(4)
    seqs = [owner.serve([token]) for token in range(4)]  # page == token
    owner.core.set_retention(seqs[2].id, priority=90, expires=inf)
    owner.core.set_retention(seqs[0].id, priority=36, expires=inf)
    for seq in (seqs[2], seqs[0], seqs[3], seqs[1]):
        owner.release(seq)
    assert owner.core.num_cached == 4
    assert owner.drain() == [3, 1, 0, 2]


def test_what_is_worth_little_goes_before_the_rest() -> None:
    owner = owner_of(3)
    first = owner.serve([1])
    second = owner.claim(b"", [2])
    owner.core.set_retention(second.id, priority=10)
    owner.take([second], [1], num_steps=1)
    owner.write(second, 1)
    owner.commit([second])
    for seq in (first, second):
        owner.release(seq)
    assert owner.drain() == [2, 1, 0]  # Page 2 was blank.


def test_a_prefix_is_kept_as_long_as_what_follows_it() -> None:
    owner = owner_of(4)
    low = owner.serve([1, 2])  # pages 0, 1
    high = owner.claim(b"", [1, 3])
    owner.core.set_retention(high.id, priority=80, expires=inf)
    owner.take([high], [2], num_steps=1)
    owner.write(high, 2)
    owner.commit([high])
    assert owner.row(high) == [0, 2]
    owner.release(high)
    owner.release(low)
    # List 35 has page 1; list 80 page 2 and then page 0, which both follow.
    assert owner.drain() == [3, 1, 2, 0]


def test_a_hit_raises_what_it_takes() -> None:
    owner = owner_of(3)
    owner.release(owner.serve([1, 2]))  # pages 0, 1
    again = owner.claim(b"", [1, 9])
    owner.core.set_retention(again.id, priority=50, expires=inf)
    owner.take([again], [2])
    owner.release(again)
    owner.release(owner.serve([3]))  # page 2, released last
    assert owner.drain() == [1, 2, 0]


def test_retention_is_raised_and_never_lowered() -> None:
    owner = owner_of(2)
    seq = owner.serve([1])
    owner.core.set_retention(seq.id, priority=70, expires=5.0)
    owner.core.set_retention(seq.id, priority=40, expires=9.0)
    owner.core.set_retention(seq.id, priority=10)
    owner.release(seq)
    owner.release(owner.serve([2]))  # page 1
    owner.core.tick(8.9)  # (70, 9.0) by now, each the higher of two.
    first = owner.claim(b"", [7])
    owner.take([first], [1], num_steps=1)
    assert owner.row(first) == [1]


def test_an_expired_page_goes_to_the_end_of_the_default_list() -> None:
    owner = owner_of(3)
    seqs = [owner.serve([token]) for token in range(3)]
    owner.core.set_retention(seqs[0].id, priority=90, expires=10.0)
    for seq in seqs:
        owner.release(seq)
    owner.core.tick(9.5)
    owner.core.tick(3.0)  # Never backwards.
    assert _order(owner) == [1, 2, 0]
    owner.release(owner.serve([5]))  # page 1 again, now the last of its list
    assert _order(owner) == [2, 1, 0]
    owner.core.tick(10.0)
    owner.release(owner.serve([6]))  # page 2
    assert _order(owner) == [1, 0, 2]


def _order(owner: Owner) -> list[int]:
    order: list[int] = owner.core.cores[0]._books.tiers.device.eviction_order()
    return order


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_chain_that_expires_at_once_falls_tail_first(is_reversed) -> None:
    owner = owner_of(3)
    if is_reversed:  # Makes 2, 1, 0 the order of the blank pages.
        owner.release(owner.claim(b"", [0]))
        spare = owner.claim(b"none", [0, 0, 0])
        owner.take([spare], [3], num_steps=1)
        owner.release(spare)
    chain = owner.serve([1, 2, 3])
    pages = owner.row(chain)
    assert pages == ([2, 1, 0] if is_reversed else [0, 1, 2])
    owner.core.set_retention(chain.id, priority=60, expires=4.0)
    owner.release(chain)
    owner.core.tick(4.0)
    owner.core.check()
    assert owner.drain() == pages[::-1]


def test_what_has_expired_counts_as_the_default() -> None:
    owner = owner_of(2)
    owner.core.tick(5.0)
    seq = owner.claim(b"", [1])
    owner.core.set_retention(seq.id, priority=60, expires=5.0)
    owner.take([seq], [1], num_steps=1)
    owner.write(seq, 1)
    owner.commit([seq])
    owner.release(seq)
    owner.release(owner.serve([2]))
    assert owner.drain() == [0, 1]


def test_a_new_sequence_begins_with_the_default() -> None:
    owner = owner_of(2)
    seq = owner.claim(b"", [1])
    owner.core.set_retention(seq.id, priority=60, expires=inf)
    owner.release(seq)
    owner.release(owner.serve([1]))
    owner.release(owner.serve([2]))
    assert owner.drain() == [0, 1]


def test_held_pages_expire_as_well() -> None:
    owner = owner_of(2)
    seq, other = owner.serve([1]), owner.serve([2])
    owner.core.set_retention(seq.id, priority=60, expires=1.0)
    owner.core.tick(1.0)
    owner.release(seq)
    owner.release(other)
    assert owner.drain() == [0, 1]


@pytest.mark.parametrize(
    ("priority", "expires", "message"),
    [
        (-1, 0.0, "from 0 to 100, got -1"),
        (101, inf, "from 0 to 100, got 101"),
        (36, 0.0, "time of expiry for priority 36, got 0.0"),
        (36, nan, "time of expiry"),
        (36, -1.0, "time of expiry"),
        (35, 1.0, "no expiry for a priority of at most 35, got 1.0"),
        (0, nan, "no expiry"),
    ],
)
def test_retention_must_make_sense(priority, expires, message) -> None:
    core = make_twins(1, 1, 1)
    seq = core.claim(b"")
    with pytest.raises(RetentionError, match=message):
        core.set_retention(seq, priority=priority, expires=expires)
    for now in (inf, nan):
        with pytest.raises(RetentionError, match="finite"):
            core.tick(now)
    core.reserve(batch_of((seq, 0, 1, [0])), num_steps=1)


def test_alarms_of_raised_and_lost_pages_do_not_pile_up() -> None:
    entries: dict[int, Entry] = {}
    clock = RetentionClock(entries.get)
    for expires in range(1, 10_000):
        page = expires % 3
        entry = entries.get(page) or Entry(page, Key(b"", b"", b""))
        entries[page] = entry
        clock.lift(entry, Retention(50, float(expires)))
    assert len(clock._alarms) < 200
    assert clock.advance(9_997.0) == [1]
    assert sorted(clock.advance(1e9)) == [0, 2]
