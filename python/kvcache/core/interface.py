"""What the rest of the library asks of the bookkeeping."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from kvcache.core.values import (
    DEFAULT_PRIORITY,
    Batch,
    Counts,
    Granted,
    Move,
    Probe,
    window_after_hit,
)

if TYPE_CHECKING:
    from kvcache.core.running import RunningRows, StepMemory

__all__ = [
    "DEFAULT_PRIORITY",
    "Batch",
    "CacheCore",
    "Counts",
    "Granted",
    "Move",
    "Probe",
    "window_after_hit",
]


class CacheCore(Protocol):
    """Pages, prefixes and sequences of one replica.

    Calls take a whole batch, so that a scheduler's step crosses into an
    implementation a fixed number of times. A call that raises has changed
    nothing. Sequences and pages are small integers from 0 on; the pages of the
    host tier follow those of the device.

    A call that names a sequence which is not claimed raises
    `UnknownRequestError`.
    """

    @property
    def page_size(self) -> int:
        """Tokens per page."""

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether sequences share pages."""

    @property
    def num_pages(self) -> int:
        """Pages of the device that can be handed out."""

    @property
    def num_host_pages(self) -> int:
        """Pages of the host tier; their numbers begin at `num_pages`."""

    @property
    def num_free(self) -> int:
        """Pages of the device that no sequence holds, cached ones included."""

    @property
    def num_cached(self) -> int:
        """Pages of the device that no sequence holds and that are findable."""

    @property
    def num_host_cached(self) -> int:
        """Pages of the host tier that are findable."""

    @property
    def num_evicted(self) -> int:
        """Prefixes' pages lost to new contents or `evict`, since the start."""

    @property
    def num_offloaded(self) -> int:
        """Pages that moved from the device to the host, since the start."""

    @property
    def num_onloaded(self) -> int:
        """Pages that moved from the host to the device, since the start."""

    @property
    def num_copied(self) -> int:
        """Pages that were copied within the device, since the start."""

    def claim(self, namespace: bytes) -> int:
        """Takes a sequence, with the default retention.

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

    def fork(self, seq: int, processed: int) -> int:
        """Takes a sequence that shares the pages of another one's beginning.

        It has the namespace and the retention of the first. A page that both
        would write is copied by `reserve` for the one that comes first.

        Args:
            seq: The sequence to share with.
            processed: Tokens that the new sequence begins with.

        Raises:
            RequestStateError: If `processed` is negative, or beyond what the
                pages take.
            ClaimError: If every sequence is taken.
        """

    def truncate(self, seq: int, length: int) -> None:
        """Gives the pages beyond a sequence's first `length` tokens back.

        A length beyond its pages changes nothing.

        Raises:
            RequestStateError: If `length` is negative.
        """

    def set_retention(
        self,
        seq: int,
        *,
        priority: int = DEFAULT_PRIORITY,
        expires: float = 0.0,
    ) -> None:
        """Says how long what a sequence commits is to be kept.

        Applies to what it has committed, to what it commits and to the cached
        prefixes that it takes; retention is raised, never lowered.

        Args:
            seq: The sequence.
            priority: 0 to 100; of cached pages, the lowest go first.
            expires: Seconds on the clock of `tick` when the pages fall back to
                the default priority, infinity for never; 0.0 for a priority
                that is not above the default.

        Raises:
            RetentionError: If the priority is out of range, or `expires` does
                not fit it.
        """

    def tick(self, now: float) -> None:
        """Sets the clock, in seconds; an earlier time changes nothing.

        Pages whose retention has expired fall back to the default.

        Raises:
            RetentionError: If `now` is not finite.
        """

    def adopt(self, batch: Batch, *, max_onload: int | None = None) -> Granted:
        """Retains the pages of the cached prefix of each sequence.

        The lookup goes on from what the sequence has committed; one that has
        processed tokens beyond that is not looked up. Whole pages match, and
        never a sequence's last token. Pages of the host tier are moved to the
        device.

        Args:
            batch: The sequences.
            max_onload: Pages to move from the host for each sequence at most.

        Raises:
            InsufficientPagesError: If the device has no room for what is moved.
            RequestStateError: If `processed` is behind what was committed, or
                a page beyond it is shared or findable (`truncate` first).
        """

    def reserve(
        self,
        batch: Batch,
        *,
        num_steps: int,
        min_partial: int | None = None,
        max_onload: int | None = None,
    ) -> Granted:
        """Adopts, and takes the pages for `num_steps` steps of each sequence.

        The first step computes the active tokens, each further step one more.
        A hit shortens the active window, or moves it on where it covers it:
        see `window_after_hit`. A page that is begun, and shared or findable,
        is copied, so that the sequence alone writes its own.

        Args:
            batch: The sequences.
            num_steps: Steps to take pages for; at least one.
            min_partial: Tokens of a page from which on a part of it is copied
                where the whole does not match; None for never.
            max_onload: Pages to move from the host for each sequence at most.

        Raises:
            InsufficientPagesError: If the pages of all of them together are
                not there; then none of them got any.
            RequestStateError: If `processed` is behind what was committed, or
                a page beyond it is shared or findable (`truncate` first).
        """

    def check_reserve(
        self, batch: Batch, *, num_steps: int, max_onload: int | None = None
    ) -> None:
        """Verifies that `reserve` would not raise; changes nothing.

        Raises:
            InsufficientPagesError: If the pages are not there.
            RequestStateError: If `processed` is behind what was committed.
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
        the sequence goes on with that one and its own page is freed; where its
        own page is shared, the sequence stops there for now.

        Raises:
            RequestStateError: If more tokens are processed than there are or
                than the pages take, a token id does not fit 32 bits, or a page
                is findable with other tokens.
        """

    def drop(self, seq: int, column: int) -> None:
        """Makes a sequence's pages from `column` on unfindable.

        For pages whose contents did not arrive. What follows them goes with
        them; whoever holds them keeps them, no longer committed.

        Raises:
            RequestStateError: If `column` is negative.
        """

    def forget_page(self, page: int) -> None:
        """Makes a page of either tier, and what follows it, unfindable.

        As `drop`, for a page that need not be in anyone's row. A page that is
        not findable stays as it is.

        Raises:
            PageStateError: If there is no such page.
        """

    def forget_cached(self) -> None:
        """Makes what no sequence holds unfindable, on device and host."""

    def evict(self, num_pages: int) -> npt.NDArray[np.uint32]:
        """Gives cached pages of the device up, as new contents would.

        They go for good, not to the host, and so does what followed them
        there. All of it counts as evicted; the pages become blank.

        Args:
            num_pages: How many.

        Returns:
            The pages in the order in which they went, `[num_pages]`: of the
            lowest priority the least recently used first, and what follows a
            page before the page.

        Raises:
            PageStateError: If `num_pages` is negative.
            InsufficientPagesError: If fewer pages are cached.
        """

    def probe(self, namespace: bytes, tokens: npt.NDArray[np.int64]) -> Probe:
        """Returns what is cached of a prompt, `[num_tokens]`; takes nothing.

        Unlike a hit it may cover the last token.
        """

    def evicted_at(
        self, namespace: bytes, tokens: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Returns when each whole page of a prompt was last evicted.

        Returns:
            Seconds on the clock of `tick`, `[num_tokens // page_size]`; nan
            where it is not known that the page ever was.
        """

    def open_batch(self, memory: "StepMemory") -> "RunningRows":
        """Returns a batch without rows that writes its tables in place.

        Args:
            memory: Where the tables are written.
        """

    def eviction_order(self) -> list[int]:
        """Returns the device's free pages, first to be handed out first.

        Takes time in proportion to the pool; for tests.
        """

    def check(self) -> None:
        """Verifies every invariant.

        Raises:
            AssertionError: If one is broken.
        """
