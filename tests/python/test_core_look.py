from math import isnan

import numpy as np
import pytest

from core_owner import Owner
from core_twins import batch_of, ints, make_twins
from kvcache.core.ghosts import Ghosts
from kvcache.errors import RequestStateError


def owner_of(num_pages: int) -> Owner:
    return Owner(make_twins(num_pages, 2, 3, enable_prefix_caching=True))


def test_a_probe_takes_nothing_and_may_cover_the_last_token() -> None:
    owner = owner_of(4)
    owner.release(owner.serve([1, 2, 3, 4]))
    for tokens, pages, partial in (
        ([1, 2, 3, 4], [0, 1], 0),
        ([1, 2, 3], [0], 1),
        ([1, 2, 3, 9, 9], [0], 1),
        ([1, 9], [], 1),
        ([1], [], 1),
        ([9], [], 0),
        ([], [], 0),
    ):
        probe = owner.core.probe(b"", ints(tokens))
        assert (probe.pages.tolist(), probe.partial) == (pages, partial)
        assert probe.pages.dtype == np.uint32
    assert owner.core.probe(b"other", ints([1, 2])).partial == 0
    assert owner.core.num_free == 4


def test_what_was_evicted_says_when() -> None:
    owner = owner_of(2)
    owner.release(owner.serve([1, 2, 3, 4]))
    owner.core.tick(5.0)
    owner.release(owner.serve([9, 9]))  # Evicts the tail.
    owner.core.tick(6.0)
    owner.release(owner.serve([8, 8]))  # Evicts the head.
    times = owner.core.evicted_at(b"", ints([1, 2, 3, 4, 5, 6, 7]))
    assert times.tolist()[:2] == [6.0, 5.0]
    assert (len(times), isnan(times[2])) == (3, True)
    for space, tokens in ((b"x", [1, 2]), (b"", [3, 4]), (b"", [2, 1])):
        assert isnan(owner.core.evicted_at(space, ints(tokens))[0])
    owner.release(owner.serve([1, 2]))  # It is back, and was away.
    assert owner.core.evicted_at(b"", ints([1, 2])).tolist() == [6.0]


def test_what_was_forgotten_was_not_evicted() -> None:
    owner = owner_of(2)
    owner.release(owner.serve([1, 2]))
    owner.core.forget_cached()
    assert isnan(owner.core.evicted_at(b"", ints([1, 2]))[0])
    assert owner.core.num_evicted == 0


def test_only_the_latest_evictions_are_remembered() -> None:
    ghosts = Ghosts(2)
    ghosts.note(b"a", 1.0)
    ghosts.note(b"b", 2.0)
    ghosts.note(b"a", 3.0)
    ghosts.note(b"c", 4.0)
    assert [ghosts.time(d) for d in (b"a", b"c")] == [3.0, 4.0]
    assert isnan(ghosts.time(b"b"))


@pytest.mark.parametrize("token", [2**31, -(2**31) - 1, 2**62])
def test_a_wide_token_is_refused_and_never_found(token) -> None:
    owner = owner_of(4)
    low = token & 0xFFFFFFFF
    narrow = low - 2**32 if low >= 2**31 else low  # the same 32 bits
    owner.release(owner.serve([1, narrow]))
    assert len(owner.core.probe(b"", ints([1, narrow])).pages) == 1
    probe = owner.core.probe(b"", ints([1, token]))
    assert (len(probe.pages), probe.partial) == (0, 1)
    seq = owner.claim(b"", [1, token, 0])
    owner.take([seq], [3], num_steps=1, min_partial=1)
    assert seq.processed == 1
    batch = batch_of((seq.id, 2, 1, seq.tokens))
    owner.raises(RequestStateError, "commit", batch)
    owner.core.commit(batch_of((seq.id, 1, 1, seq.tokens)))  # Nothing is due.


@pytest.mark.parametrize("token", [2**31 - 1, -(2**31)])
def test_the_widest_tokens_are_found(token) -> None:
    owner = owner_of(4)
    owner.release(owner.serve([token, token]))
    assert len(owner.core.probe(b"", ints([token, token])).pages) == 1


def test_eviction_takes_the_tail_of_what_was_used_longest_ago() -> None:
    owner = owner_of(6)
    for tokens in ([1, 1, 2, 2], [3, 3, 4, 4]):
        owner.release(owner.serve(tokens))
    owner.release(owner.serve([1, 1, 2, 2]))  # Used again.
    owner.core.tick(7.0)
    assert owner.core.evict(3).tolist() == [3, 2, 1]
    assert owner.core.probe(b"", ints([1, 1, 2, 2])).pages.tolist() == [0]
    assert (owner.core.num_cached, owner.core.num_evicted) == (1, 3)
    times = owner.core.evicted_at(b"", ints([3, 3, 4, 4]))
    assert times.tolist() == [7.0, 7.0]
    owner.core.check()


def test_eviction_takes_what_followed_on_the_host() -> None:
    core = make_twins(2, 2, 3, enable_prefix_caching=True, num_host_pages=2)
    owner = Owner(core)
    owner.release(owner.serve([1, 1, 2, 2]))
    owner.release(owner.serve([3, 3]))  # The tail goes to the host.
    assert (core.num_cached, core.num_host_cached) == (2, 1)
    assert core.evict(1).tolist() == [0]
    assert (core.num_cached, core.num_host_cached) == (1, 0)
    assert core.num_evicted == 2
    core.check()
