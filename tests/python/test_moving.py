"""The order of moves, and what is lost where a copy fails."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvcache.core.interface import Move
from kvcache.manager.moving import Run, carry_out, runs, stages

NUM_PAGES = 5  # Of the device, and of the host.
DEVICE = st.integers(0, NUM_PAGES - 1)
HOST = st.integers(NUM_PAGES, 2 * NUM_PAGES - 1)
MOVES = st.lists(
    st.tuples(st.just(Move.COPY), DEVICE, DEVICE).filter(
        lambda move: move[1] != move[2]
    )
    | st.tuples(st.just(Move.OFFLOAD), DEVICE, HOST)
    | st.tuples(st.just(Move.ONLOAD), HOST, DEVICE),
    max_size=12,
)
RUBBISH = -1


def as_array(moves: Sequence[tuple[int, int, int]]) -> np.ndarray:
    return np.array(moves, np.uint32).reshape(-1, 3)


class Places:
    """What each page holds; a copy reads everything before it writes."""

    def __init__(self, fails: Sequence[tuple[int, int]] = ()) -> None:
        self.pages = list(range(2 * NUM_PAGES))
        self.fails = fails
        self.num_calls = 0

    def copy(self, kind: Move, chosen: Sequence[Run]) -> None:
        self.num_calls += 1
        pairs = [
            (run.source + i, run.target + i)
            for run in chosen
            for i in range(run.count)
        ]
        sources, targets = [s for s, _ in pairs], [t for _, t in pairs]
        assert len(set(targets)) == len(targets)
        assert not set(sources) & set(targets)
        assert all((s >= NUM_PAGES) == (kind is Move.ONLOAD) for s in sources)
        assert all((t >= NUM_PAGES) == (kind is Move.OFFLOAD) for t in targets)
        found = [self.pages[source] for source in sources]
        for target, content in zip(targets, found, strict=True):
            self.pages[target] = content
        for source, target in pairs:
            if (source, target) in self.fails:
                self.pages[target] = RUBBISH
        if any(pair in self.fails for pair in pairs):
            raise RuntimeError("no copy")


@given(moves=MOVES)
def test_stages_do_what_the_moves_do_one_by_one(moves) -> None:
    wanted = list(range(2 * NUM_PAGES))
    for _, source, target in moves:
        wanted[target] = wanted[source]
    places = Places()
    outcome = carry_out(as_array(moves), places.copy)
    assert places.pages == wanted
    assert outcome.done.total() == len(moves)
    assert (outcome.lost, outcome.failed.total()) == (set(), 0)


@given(moves=MOVES, data=st.data())
def test_what_does_not_arrive_is_lost_and_nothing_else(moves, data) -> None:
    pairs = [(source, target) for _, source, target in moves]
    fails = data.draw(st.sets(st.sampled_from(pairs))) if pairs else set()
    wanted = list(range(2 * NUM_PAGES))
    for source, target in pairs:
        is_lost = (source, target) in fails
        wanted[target] = RUBBISH if is_lost else wanted[source]
    places = Places(fails)
    outcome = carry_out(as_array(moves), places.copy)
    lost = {page for page, what in enumerate(wanted) if what == RUBBISH}
    assert outcome.lost == lost
    for page, what in enumerate(wanted):
        assert page in lost or places.pages[page] == what
    assert outcome.done.total() + outcome.failed.total() == len(moves)
    if not fails:
        assert outcome.lost == set()


@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_runs_cover_each_pair_once(pairs) -> None:
    found = list(runs(pairs))
    assert pairs == [
        (run.source + i, run.target + i)
        for run in found
        for i in range(run.count)
    ]
    for one, two in pairwise(found):
        follows = one.source + one.count, one.target + one.count
        assert (two.source, two.target) != follows


def test_pages_that_lie_side_by_side_go_in_one_run() -> None:
    moves = [
        (Move.OFFLOAD, 0, 7),
        (Move.ONLOAD, 5, 0),
        (Move.OFFLOAD, 1, 8),
        (Move.ONLOAD, 6, 1),
        (Move.OFFLOAD, 2, 9),
    ]
    found = [
        (kind, list(runs(pairs))) for kind, pairs in stages(as_array(moves))
    ]
    assert found == [
        (Move.OFFLOAD, [Run(0, 7, 3)]),
        (Move.ONLOAD, [Run(5, 0, 2)]),
    ]


def test_a_swap_keeps_its_order() -> None:
    """Each load makes room on the host for what is evicted next."""
    moves = [
        (Move.OFFLOAD, 0, 7),
        (Move.ONLOAD, 5, 0),
        (Move.OFFLOAD, 1, 5),
        (Move.ONLOAD, 6, 1),
    ]
    kinds = [kind for kind, _ in stages(as_array(moves))]
    assert kinds == [Move.OFFLOAD, Move.ONLOAD, Move.OFFLOAD, Move.ONLOAD]
