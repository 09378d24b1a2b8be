"""Groups of calls never wait for each other, and none could be larger."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcache.compiler.fusion import fused, in_order, needed


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, set[int]]:
    size = draw(st.integers(1, 14))
    return {
        call: draw(st.sets(st.integers(0, call - 1), max_size=3))
        if call
        else set()
        for call in range(size)
    }


def renumbered(after: dict[int, set[int]], order: list[int]) -> Any:
    return {order[c]: {order[b] for b in bs} for c, bs in after.items()}


@given(graphs(), st.randoms(use_true_random=False))
def test_order_is_topological(after: dict[int, set[int]], random: Any) -> None:
    numbers = list(after)
    random.shuffle(numbers)
    after = renumbered(after, numbers)
    order = in_order(after)
    assert sorted(order) == sorted(after)
    place = {call: i for i, call in enumerate(order)}
    assert all(place[b] < place[c] for c, bs in after.items() for b in bs)


@given(graphs(), st.data())
def test_groups_have_no_cycle_and_cannot_be_merged_further(
    after: dict[int, set[int]], data: st.DataObject
) -> None:
    fusible = data.draw(st.sets(st.sampled_from(sorted(after))))
    groups = fused(after, fusible)
    assert sorted(c for group in groups for c in group) == sorted(after)
    place = {call: i for i, group in enumerate(groups) for call in group}
    for call, before in after.items():
        for one in before:
            assert place[one] <= place[call]
            if place[one] == place[call]:
                mine = groups[place[call]]
                assert mine.index(one) < mine.index(call)
    for group in groups:
        assert len(group) == 1 or set(group) <= fusible
    open_groups = [g for g in groups if set(g) <= fusible]
    for i, one in enumerate(open_groups):
        for other in open_groups[i + 1 :]:
            assert merging_makes_a_cycle(after, groups, one, other)


def merging_makes_a_cycle(
    after: dict[int, set[int]], groups: Any, one: Any, other: Any
) -> bool:
    merged = [g for g in groups if g not in {one, other}] + [one + other]
    name = {call: min(group) for group in merged for call in group}
    between: dict[int, set[int]] = {each: set() for each in name.values()}
    for call, before in after.items():
        between[name[call]] |= {name[b] for b in before} - {name[call]}
    try:
        in_order(between)
    except RuntimeError:
        return True
    return False


@given(graphs(), st.data())
def test_what_is_not_needed_is_left_out(
    after: dict[int, set[int]], data: st.DataObject
) -> None:
    wanted = data.draw(st.sets(st.sampled_from(sorted(after)), min_size=1))
    kept = needed(after, wanted)
    reaches = {call: {call} for call in after}
    for call in sorted(after):
        for one in after[call]:
            reaches[call] |= reaches[one]
    assert kept == set().union(*(reaches[call] for call in wanted))


def test_calls_that_wait_for_each_other() -> None:
    with pytest.raises(RuntimeError, match="Cycle detected in subgraph DAG"):
        in_order({0: {2}, 1: {0}, 2: {1}})


def test_siblings_are_fused_around_what_stands_alone() -> None:
    """0 and 3 are fused; 1 stands alone between 0 and 2."""
    groups = fused({0: set(), 1: {0}, 2: {1}, 3: set()}, {0, 2, 3})
    assert groups == [(0, 3), (1,), (2,)]
