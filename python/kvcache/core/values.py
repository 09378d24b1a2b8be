"""What goes into the bookkeeping, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Counts: TypeAlias = npt.NDArray[np.int64]
"""One number per sequence of a batch, `[batch]`."""

DEFAULT_PRIORITY = 35
"""Priority of pages for which nobody asked for another."""


class Move(IntEnum):
    """What a model's owner does with a page's contents before it computes."""

    COPY = 0
    """From one page of the device to another."""
    OFFLOAD = 1
    """From the device to the host."""
    ONLOAD = 2
    """From the host to the device."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some sequences and the windows of their tokens that come next."""

    seqs: Counts
    """Each sequence, as `claim` named it; none twice."""
    processed: Counts
    """Tokens of each whose keys and values exist."""
    active: Counts
    """Tokens of each that are computed next; at least one."""
    tokens: Sequence[npt.NDArray[np.int64]]
    """All token ids of each, `[num_tokens]`; strided arrays are fine."""
    places: Sequence[tuple[int, int]] | None = None
    """Address and number of each one's ids, int64 and contiguous; if they are
    given, a core may read them there instead."""


@dataclass(frozen=True, slots=True, eq=False)
class Granted:
    """What a batch got, and what is to be moved before it may be read."""

    hits: Counts
    """Tokens found beyond `processed`, `[batch]`."""
    moves: npt.NDArray[np.uint32]
    """Kind, source page and destination page, `[num_moves, 3]`; to be carried
    out in this order."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """What is cached of a prompt."""

    pages: npt.NDArray[np.uint32]
    """Whole pages in order, `[num_pages]`; those of the host included."""
    partial: int
    """Tokens of the next page that some cached page begins with."""


def window_after_hit(
    *, processed: int, active: int, length: int, hit: int
) -> tuple[int, int]:
    """Returns where the active window begins and ends after a hit.

    A hit inside the window moves its beginning. A hit that covers the window
    of a chunked sequence moves the whole window, as long as before if there
    are as many tokens left. At least one token is always left.

    Args:
        processed: Tokens before the window.
        active: Tokens in it.
        length: Tokens of the sequence.
        hit: Tokens found beyond `processed`.
    """
    start = processed + hit
    end = processed + active
    return start, end if start < end else min(start + active, length)
