"""Which calls become one kernel, and in which order kernels run.

Calls are known by their numbers, and what each must come after by a table:
`after[5] == {2, 3}` says that call 5 needs what 2 and 3 have done.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from heapq import heapify, heappop, heappush

After = Mapping[int, AbstractSet[int]]
"""What each call must come after."""


def in_order(after: After) -> list[int]:
    """Returns all calls, each behind those that it must come after.

    Of calls that are ready the lowest comes first, so equal tables give equal
    orders.

    Raises:
        RuntimeError: If calls wait for each other.
    """
    waits = {call: set(before) for call, before in after.items()}
    followers: dict[int, list[int]] = {call: [] for call in after}
    for call, before in after.items():
        for one in before:
            followers[one].append(call)
    ready = [call for call, before in waits.items() if not before]
    heapify(ready)
    order = []
    while ready:
        order.append(heappop(ready))
        for call in followers[order[-1]]:
            waits[call].discard(order[-1])
            if not waits[call]:
                heappush(ready, call)
    if len(order) < len(after):
        stuck = sorted(set(after) - set(order))
        raise RuntimeError(
            f"Cycle detected in subgraph DAG: {stuck} wait for each other"
        )
    return order


def needed(after: After, wanted: Iterable[int]) -> set[int]:
    """Returns the calls without which the wanted ones could not run."""
    found: set[int] = set()
    left = list(wanted)
    while left:
        call = left.pop()
        if call not in found:
            found.add(call)
            left.extend(after[call])
    return found


def fused(after: After, fusible: AbstractSet[int]) -> list[tuple[int, ...]]:
    """Returns the calls in groups, each behind those that it must come after.

    Fusible calls share a group, also those that have nothing to do with each
    other, unless two groups would then wait for each other.

    Args:
        after: What each call must come after.
        fusible: Calls that may share a group.

    Returns:
        The groups in order, and in each the calls in order.

    Raises:
        RuntimeError: If calls wait for each other.
    """
    order = in_order(after)
    group_of = {call: call for call in after}
    while _merge_two(after, [c for c in order if c in fusible], group_of):
        pass
    groups: dict[int, list[int]] = {}
    for call in order:
        groups.setdefault(group_of[call], []).append(call)
    return [tuple(groups[g]) for g in in_order(_between(after, group_of))]


def _merge_two(
    after: After, order: list[int], group_of: dict[int, int]
) -> bool:
    """Merges the first two groups that may be merged; tells whether any."""
    groups = list(dict.fromkeys(group_of[call] for call in order))
    between = _between(after, group_of)
    for i, kept in enumerate(groups):
        for gone in groups[i + 1 :]:
            if _has_detour(between, kept, gone):
                continue
            for call, group in group_of.items():
                if group == gone:
                    group_of[call] = kept
            return True
    return False


def _between(after: After, group_of: Mapping[int, int]) -> dict[int, set[int]]:
    """Returns what each group must come after."""
    between: dict[int, set[int]] = {group: set() for group in group_of.values()}
    for call, before in after.items():
        mine = group_of[call]
        between[mine] |= {group_of[one] for one in before} - {mine}
    return between


def _has_detour(between: After, one: int, other: int) -> bool:
    """Whether a third group stands between two: merged, they would wait."""
    return any(
        target in needed(between, between[start] - {target})
        for start, target in ((one, other), (other, one))
    )
