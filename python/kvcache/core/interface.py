"""What the rest of the library asks of the bookkeeping."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Counts: TypeAlias = npt.NDArray[np.int64]
"""One number per sequence of a batch, `[batch]`."""


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


@dataclass(frozen=True, slots=True)
class Probe:
    """What is cached of some tokens, found without touching it."""

    pages: npt.NDArray[np.uint32]
    """Their longest cached prefix in whole pages, `[num_pages]`."""


class CacheCore(Protocol):
    """Pages, prefixes and sequences of one replica.

    Calls take a whole batch, so that a scheduler's step crosses into an
    implementation a fixed number of times. A call that raises has changed
    nothing. Sequences and pages are small integers from 0 on.
    """

    @property
    def page_size(self) -> int:
        """Tokens per page."""

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether sequences share pages."""

    @property
    def num_pages(self) -> int:
        """Pages that can be handed out."""

    @property
    def num_free(self) -> int:
        """Pages that no sequence holds; some of them may be cached."""

    @property
    def num_evicted(self) -> int:
        """Cached pages that were handed out again, since the start."""

    def claim(self, namespace: bytes) -> int:
        """Takes a sequence.

        Args:
            namespace: Sequences share pages only under equal namespaces.

        Raises:
            ClaimError: If every sequence is taken.
        """

    def release(self, seq: int) -> None:
        """Gives a sequence and its references to pages back.

        What it committed stays cached until its pages are handed out again,
        the last page of a prefix before the first one.
        """

    def adopt(self, batch: Batch) -> Counts:
        """Retains the pages of the cached prefix of each sequence.

        The lookup goes on from what the sequence has committed; one that has
        processed tokens beyond that is not looked up. Whole pages match, and
        never a sequence's last token.

        Returns:
            The tokens found beyond `processed`, `[batch]`.

        Raises:
            RequestStateError: If `processed` is behind what was committed.
        """

    def reserve(self, batch: Batch, *, num_steps: int) -> Counts:
        """Adopts, and takes the pages for `num_steps` steps of each sequence.

        The first step computes the active tokens, each further step one more.
        A hit shortens the active window, or moves it on where it covers it:
        see `window_after_hit`.

        Returns:
            The tokens found beyond `processed`, `[batch]`.

        Raises:
            InsufficientPagesError: If the pages of all of them together are
                not there; then none of them got any.
            RequestStateError: If `processed` is behind what was committed.
        """

    def probe(self, namespace: bytes, tokens: npt.NDArray[np.int64]) -> Probe:
        """Returns what is cached of some tokens, the last one included.

        Changes nothing: no page is retained or kept from eviction.

        Args:
            namespace: As `claim` takes it.
            tokens: Token ids from a sequence's beginning, `[num_tokens]`.
        """

    def pages(self, seq: int) -> npt.NDArray[np.uint32]:
        """Returns a sequence's pages in order, as a read-only view."""

    def fill(
        self,
        seqs: Counts,
        num_pages: Counts,
        lookup_table: npt.NDArray[np.uint32],
    ) -> None:
        """Writes the first `num_pages` pages of each sequence into its row.

        Args:
            seqs: The sequences, `[batch]`.
            num_pages: Pages to write of each, `[batch]`.
            lookup_table: Written in place, `[batch, columns]`; what is beyond
                a sequence's pages stays as it is.

        Raises:
            PageStateError: If a sequence holds fewer, or they do not fit.
        """

    def commit(self, batch: Batch) -> None:
        """Makes the full pages below `processed` findable.

        Where another page already holds the same tokens of the same prefix,
        the sequence goes on with that one and its own page is freed.
        """

    def forget_cached(self) -> None:
        """Makes what no sequence holds unfindable."""

    def check(self) -> None:
        """Verifies every invariant.

        Raises:
            AssertionError: If one is broken.
        """


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
