"""Where a request should go, and that a hot prefix does not herd requests."""

import random

import pytest

from kvcache import PagedKVCacheManager, Request
from kvcache.manager.routing import BALANCE, ReplicaState, recommend
from managers import claimed, compute, make_replicas


def states(*rows: tuple[int, int], room: str = "") -> list[ReplicaState]:
    """Replicas of so many requests and so many cached tokens."""
    return [
        ReplicaState(requests, not room or room[i] == "y", cached, cached)
        for i, (requests, cached) in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (states((2, 0), (1, 0), (1, 0)), 1),  # The fewest, the first of them.
        (states((0, 0), (0, 16)), 1),  # A prefix decides between equals.
        (states((0, 0), (1, 32)), 1),  # 32 of 64 tokens outweigh one request,
        (states((0, 0), (2, 32)), 0),  # but not two: a tie, so the fewest.
        (states((2, 32), (0, 0)), 1),
        (states((0, 0), (3, 63)), 1),
        (states((0, 0), (4, 63)), 0),  # BALANCE outweighs a whole prompt.
        (states((9, 0), (12, 63)), 1),  # Only what is beyond the least counts.
        (states((0, 63), (5, 0), room="ny"), 1),  # No room: last of all.
        (states((3, 0), (2, 0), room="nn"), 1),  # Unless nobody has any.
        (states((0, 0), (5, 0), (8, 63), room="nyy"), 2),
    ],
)
def test_the_rule_worked_by_hand(
    given: list[ReplicaState], wanted: int
) -> None:
    assert recommend(given, 64, copies=False) == wanted


def test_a_prefix_that_can_be_copied_weighs_little() -> None:
    given = states((0, 0), (1, 48))
    assert recommend(given, 64, copies=False) == 1
    assert recommend(given, 64, copies=True) == 0
    assert recommend(states((1, 0), (1, 48)), 64, copies=True) == 1


@pytest.mark.parametrize("copies", [False, True])
def test_the_choice_is_never_as_far_ahead_as_the_balance(copies: bool) -> None:
    draw = random.Random(3)
    for _ in range(2000):
        length = draw.randint(1, 300)
        given = [
            ReplicaState(
                draw.randint(0, 12),
                draw.random() < 0.8,
                draw.randint(0, length - 1),
                draw.randint(0, length - 1),
            )
            for _ in range(draw.randint(1, 5))
        ]
        chosen = given[recommend(given, length, copies=copies)]
        rivals = [s for s in given if s.has_room] or given
        least = min(s.num_requests for s in rivals)
        assert chosen.num_requests < least + BALANCE
        assert chosen in rivals


def whole_state(manager: PagedKVCacheManager) -> object:
    return (
        [m.core.eviction_order() for m in manager._replicas.members],
        manager.metrics,
        manager.num_free_blocks,
    )


def test_a_recommendation_changes_nothing() -> None:
    manager = make_replicas(3, num_pages=6)
    for on, start in ((0, 0), (2, 0), (2, 100)):
        request = claimed(manager, range(start, start + 40), on=on)
        compute(manager, request)
        manager.release(request.request_id)
    request = Request(list(range(50)))
    before = whole_state(manager)
    assert manager.get_or_recommend_replica(request) == 0
    assert whole_state(manager) == before
    assert not manager.contains(request.request_id)
    assert request.tokens.processed_length == 0


def test_a_claimed_request_stays_where_it_is() -> None:
    manager = make_replicas(2)
    compute(manager, claimed(manager, 40, on=0))
    request = claimed(manager, 40, on=1)
    assert manager.get_or_recommend_replica(request) == 1


def test_a_full_replica_is_not_recommended() -> None:
    manager = make_replicas(2, num_pages=4, max_batch_size=4)
    hot = claimed(manager, 33, on=1)
    compute(manager, hot)
    manager.release(hot.request_id)
    assert manager.get_or_recommend_replica(Request(list(range(40)))) == 1
    holder = claimed(manager, range(100, 132), on=1)
    claimed(manager, 1, on=0)
    assert manager.maybe_reserve(holder)
    # Two pages are found there, and nothing else is free.
    assert manager.get_or_recommend_replica(Request(list(range(32)))) == 1
    assert manager.get_or_recommend_replica(Request(list(range(33)))) == 0
    assert manager.get_or_recommend_replica(Request(list(range(64)))) == 0
    claimed(manager, 5, on=0)
    assert manager.get_or_recommend_replica(Request(list(range(80)))) == 1


def test_a_replica_without_a_claim_left_is_not_recommended() -> None:
    manager = make_replicas(2, max_batch_size=3)  # Two claims and one.
    compute(manager, claimed(manager, 40, on=1))
    claimed(manager, 5, on=0)
    assert manager.get_or_recommend_replica(Request(list(range(40)))) == 0


def test_salt_and_model_are_part_of_the_prefix() -> None:
    manager = make_replicas(2, copy_prefixes_across_replicas=False)
    compute(manager, claimed(manager, 40, on=1, cache_salt="a"))
    claimed(manager, 1, on=0)
    ids = list(range(40))
    recommended = manager.get_or_recommend_replica
    assert recommended(Request(ids, cache_salt="a")) == 1
    claimed(manager, 1, on=1)
    assert recommended(Request(ids)) == 0
    assert recommended(Request(ids, cache_salt="a", model_name="b")) == 0


@pytest.mark.parametrize("copies", [False, True])
def test_a_hot_prefix_keeps_the_load_balanced(copies: bool) -> None:
    manager = make_replicas(
        4,
        num_pages=200,
        max_batch_size=64,
        copy_prefixes_across_replicas=copies,
    )
    hot = list(range(96))
    compute(manager, claimed(manager, [*hot, 1], on=2))
    counts = [0, 0, 1, 0]
    for number in range(47):
        request = Request([*hot, number])
        replica = manager.get_or_recommend_replica(request)
        manager.external_claim(request.request_id, replica)
        counts[replica] += 1
        assert max(counts) - min(counts) <= BALANCE
        assert manager.maybe_reserve(request)
        compute(manager, request)
    assert manager.metrics.cache_hit_rate > 0.9
    if copies:
        assert counts == [12, 12, 12, 12]
        # Six pages, once to each of the three others.
        assert manager.metrics.copied_pages == 18
    assert manager.metrics.cache_tokens == 96 * (47 if copies else 44)
