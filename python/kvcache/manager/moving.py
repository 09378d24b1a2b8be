"""Moves of pages: in which order, in how few copies, and what went wrong."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.core.interface import Move


@dataclass(frozen=True, slots=True)
class Run:
    """Pages that lie side by side, where they are and where they go."""

    source: int
    target: int
    count: int

    def singles(self) -> list["Run"]:
        """Returns its pages as runs of their own."""
        return [
            Run(self.source + place, self.target + place, 1)
            for place in range(self.count)
        ]


@dataclass(slots=True)
class Outcome:
    """What became of some moves."""

    lost: set[int] = field(default_factory=set)
    """Pages that do not hold what they should."""
    done: Counter[Move] = field(default_factory=Counter)
    """Pages that were copied, of each kind."""
    failed: Counter[Move] = field(default_factory=Counter)
    """Pages that were not."""
    error: Exception | None = None
    """What was raised first."""


CopyRuns: TypeAlias = Callable[[Move, Sequence[Run]], None]
"""Copies runs of one kind that do not depend on each other."""

_Pair: TypeAlias = tuple[int, int]  # Source and target.


def carry_out(moves: npt.NDArray[np.uint32], copy: CopyRuns) -> Outcome:
    """Moves pages as the books say, as many as possible in one call.

    A copy that raises stops nothing else: its target is lost, and what would
    have been copied on from there.

    Args:
        moves: Kind, source and target, `[num_moves, 3]`; each may read and
            write what those before it wrote and read.
        copy: Copies; where it raises for several pages, it is called again for
            each of them.
    """
    outcome = Outcome()
    for kind, pairs in stages(moves):
        lost = [pair for pair in pairs if pair[0] in outcome.lost]
        kept = [pair for pair in pairs if pair[0] not in outcome.lost]
        outcome.lost.update(target for _, target in lost)
        outcome.failed[kind] += len(lost)
        _copy(kind, list(runs(kept)), copy, outcome)
    return outcome


def stages(
    moves: npt.NDArray[np.uint32],
) -> Iterator[tuple[Move, list[_Pair]]]:
    """Yields moves of one kind that do not depend on each other.

    Each move comes in the first stage after those that write what it reads,
    and those that read or write what it writes.
    """
    read: dict[int, int] = {}
    written: dict[int, int] = {}
    placed: list[tuple[int, Move, _Pair]] = []
    for kind, source, target in moves.tolist():
        stage = max(
            written.get(source, 0), written.get(target, 0), read.get(target, 0)
        )
        read[source] = max(read.get(source, 0), stage + 1)
        written[target] = stage + 1
        placed.append((stage, Move(kind), (source, target)))
    placed.sort()
    for (_, kind), group in groupby(placed, key=itemgetter(0, 1)):
        yield kind, [pair for _, _, pair in group]


def runs(pairs: Iterable[_Pair]) -> Iterator[Run]:
    """Yields the runs that pairs of source and target make, in order."""
    run: Run | None = None
    for source, target in pairs:
        if run is not None:
            step = source - run.source, target - run.target
            if step == (run.count, run.count):
                run = Run(run.source, run.target, run.count + 1)
                continue
            yield run
        run = Run(source, target, 1)
    if run is not None:
        yield run


def _copy(
    kind: Move, chosen: Sequence[Run], copy: CopyRuns, outcome: Outcome
) -> None:
    """Copies runs, together if that works, and notes what became of them."""
    if not chosen:
        return
    singles = [single for run in chosen for single in run.singles()]
    targets = [single.target for single in singles]
    try:
        copy(kind, chosen)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is noted)
        if len(singles) > 1:
            for single in singles:
                _copy(kind, [single], copy, outcome)
            return
        outcome.error = outcome.error or error
        outcome.lost.update(targets)
        outcome.failed[kind] += len(targets)
        return
    outcome.lost.difference_update(targets)
    outcome.done[kind] += len(targets)
