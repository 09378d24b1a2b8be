"""What a graph is told of one step's batch, on the host."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvcache.core.interface import CacheCore, Counts

NO_TOKENS = np.empty(0, np.int64)
"""The tokens of a sequence that cannot find a prefix."""


@dataclass(frozen=True, slots=True)
class StepTables:
    """One step's batch, on the host."""

    cache_lengths: npt.NDArray[np.uint32]  # [batch]
    lookup_table: npt.NDArray[np.uint32]  # [batch, columns]
    max_lengths: npt.NDArray[np.uint32]  # [num_steps, 2]


def step_tables(
    core: CacheCore,
    seqs: Counts,
    *,
    starts: Sequence[int],
    ends: Sequence[int],
    num_steps: int,
) -> StepTables:
    """Writes the arrays of some steps, all of them new.

    Args:
        core: Holds the pages of every step.
        seqs: The requests' sequences, `[batch]`.
        starts: Where their active tokens begin.
        ends: Where they end.
        num_steps: How often the model runs.
    """
    begin, end = _lengths(starts), _lengths(ends)
    longest, size = int(end.max(initial=0)), core.page_size
    num_pages = (end.astype(np.int64) + (num_steps + size - 2)) // size
    columns = padded_columns(int(num_pages.max(initial=0)))
    lookup_table = np.full((len(seqs), columns), core.num_pages, np.uint32)
    core.fill(seqs, num_pages, lookup_table)
    active = int((end - begin).max(initial=0))
    max_lengths = np.array(
        [
            [active if step == 0 else 1, longest + step]
            for step in range(num_steps)
        ],
        np.uint32,
    )
    return StepTables(
        cache_lengths=begin,
        lookup_table=lookup_table,
        max_lengths=max_lengths,
    )


def _lengths(values: Sequence[int]) -> npt.NDArray[np.uint32]:
    """Returns lengths as graphs take them, twice as fast as `np.array`."""
    return np.frombuffer(array("I", values), np.uint32)


def padded_columns(columns: int) -> int:
    """Returns the width of a lookup table that MAX's kernels may read.

    They load entries in groups, past the last one that they need; the rule is
    that of `padded_lut_cols` in MAX 26.7.

    Args:
        columns: Columns in use.
    """
    return -(-columns // 8) * 8 + 16


def counts(values: list[int]) -> Counts:
    """Returns numbers as the core takes them."""
    return np.array(values, np.int64)
