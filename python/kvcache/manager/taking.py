"""Takes pages from the books, with their contents moved to where they go."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.core.interface import Batch, CacheCore, Counts, Granted, Move
from kvcache.core.running import Prompt, RunningRows
from kvcache.errors import InsufficientPagesError, PageStateError
from kvcache.manager.moving import Outcome
from kvcache.manager.tables import NO_TOKENS, counts
from kvcache.metrics import KVCacheMetrics

CarryOut: TypeAlias = Callable[[npt.NDArray[np.uint32]], Outcome]
"""Moves pages as the books say, in order."""


class PageTaker:
    """Gives sequences their pages once these hold what the books say.

    Copies are issued before whatever reads or overwrites their pages. One that
    cannot be issued is a miss: the page is made unfindable, and a sequence that
    was to read it computes its tokens again.

    Args:
        core: Keeps the pages' books.
        carry_out: Moves contents.
        max_onload: Pages that a sequence loads from the host at most; None for
            all that it finds.
    """

    def __init__(
        self,
        core: CacheCore,
        carry_out: CarryOut,
        *,
        max_onload: int | None = None,
    ) -> None:
        """Starts with nothing moved."""
        self.max_onload = max_onload
        self.metrics = KVCacheMetrics()
        """What was moved, since the start or since someone reset it."""
        self._core = core
        self._carry_out = carry_out

    def adopt(self, batch: Batch) -> Counts:
        """Takes cached prefixes, as far as there is room to load them.

        Returns:
            Tokens of each sequence that were found and are there.
        """
        held = self._held(batch)
        try:
            granted = self._core.adopt(batch, max_onload=self.max_onload)
        except InsufficientPagesError as error:
            most = error.free // len(batch.seqs)
            granted = self._core.adopt(batch, max_onload=most)
        hits = self._arrived(batch, granted, held)
        if hits is not granted.hits:
            self._trim(batch, hits, held)
        return hits

    def reserve(
        self, batch: Batch, *, num_steps: int, min_partial: int | None = None
    ) -> Counts:
        """Takes the pages of some steps; see `CacheCore.reserve`.

        Returns:
            Tokens of each sequence that were found and are there.

        Raises:
            InsufficientPagesError: If the pages are not there; where a page
                got lost that two sequences were to share, they need two.
            PageStateError: If a begun page could not be copied within the
                device before it is written.
        """
        held = self._held(batch)
        granted = self._core.reserve(
            batch,
            num_steps=num_steps,
            min_partial=min_partial,
            max_onload=self.max_onload,
        )
        return self._arrived(batch, granted, held)

    def check_reserve(self, batch: Batch, *, num_steps: int) -> None:
        """Verifies that `reserve` works; see `CacheCore.check_reserve`."""
        self._core.check_reserve(
            batch, num_steps=num_steps, max_onload=self.max_onload
        )

    def admit(
        self,
        rows: RunningRows,
        namespace: bytes,
        prompts: Sequence[Prompt],
        *,
        min_partial: int | None = None,
    ) -> Counts:
        """Takes prompts as further rows; see `RunningRows.admit`.

        Returns:
            Tokens of each prompt that were found and are there.
        """
        first = len(rows)
        granted = rows.admit(
            namespace,
            prompts,
            min_partial=min_partial,
            max_onload=self.max_onload,
        )
        if self.carry_out(granted.moves):
            rows.leave(range(first, len(rows)))
            granted = rows.admit(
                namespace, prompts, min_partial=min_partial, max_onload=0
            )
            self.carry_out(granted.moves)
        return granted.hits

    def carry_out(self, moves: npt.NDArray[np.uint32]) -> set[int]:
        """Moves contents; makes unfindable what did not arrive.

        Returns:
            The pages of the device that did not get their contents.
        """
        if not len(moves):
            return set()
        outcome = self._carry_out(moves)
        self.metrics += KVCacheMetrics(
            h2d_blocks_copied=outcome.done[Move.ONLOAD],
            d2h_blocks_copied=outcome.done[Move.OFFLOAD],
            failed_loads=outcome.failed[Move.ONLOAD],
            failed_offloads=outcome.failed[Move.OFFLOAD],
        )
        for page in sorted(outcome.lost):
            self._core.forget_page(page)
        return {page for page in outcome.lost if page < self._core.num_pages}

    def _held(self, batch: Batch) -> list[int]:
        """Returns how many pages each has, if any may come from the host."""
        if not self._core.num_host_cached:
            return []
        return [len(self._core.pages(seq)) for seq in batch.seqs.tolist()]

    def _arrived(
        self, batch: Batch, granted: Granted, held: Sequence[int]
    ) -> Counts:
        """Moves contents, and shortens hits to what arrived."""
        lost = self.carry_out(granted.moves)
        if not lost:
            return granted.hits
        hits = granted.hits.copy()
        try:
            self._shorten(batch, hits, lost)
        except (InsufficientPagesError, PageStateError):
            self._undo(batch, granted.hits, held)
            raise
        return hits

    def _shorten(self, batch: Batch, hits: Counts, lost: set[int]) -> None:
        """Ends hits before what was lost; each keeps pages to compute it in.

        Raises:
            InsufficientPagesError: If sequences were to share what was lost,
                and there are no pages for each of them.
            PageStateError: If what a sequence has computed was to be copied,
                and is lost.
        """
        taken: set[int] = set()
        rows = zip(batch.seqs.tolist(), batch.processed.tolist(), strict=True)
        for row, (seq, processed) in enumerate(rows):
            pages = self._core.pages(seq).tolist()
            column = next((i for i, p in enumerate(pages) if p in lost), None)
            if column is None:
                continue
            end = column * self._core.page_size
            if end < processed:
                raise PageStateError(
                    f"wanted a copy of the page in column {column}, which "
                    f"others may read, got none: release the request"
                )
            hits[row] = end - processed
            if pages[column] in taken:
                self._core.truncate(seq, end)
                self._grow(seq, end, len(pages))
            taken.add(pages[column])

    def _trim(self, batch: Batch, hits: Counts, held: Sequence[int]) -> None:
        """Gives back pages beyond the hits that a sequence did not have."""
        ends = (batch.processed + hits).tolist()
        rows = zip(batch.seqs.tolist(), ends, held, strict=True)
        for seq, end, num_pages in rows:
            length = max(end, num_pages * self._core.page_size)
            self._core.truncate(seq, length)

    def _undo(self, batch: Batch, hits: Counts, held: Sequence[int]) -> None:
        """Leaves each sequence with as many pages as it had, and no hit."""
        rows = list(
            zip(batch.seqs.tolist(), batch.processed.tolist(), strict=True)
        )
        for (seq, processed), hit in zip(rows, hits.tolist(), strict=True):
            if hit:
                self._core.truncate(seq, processed)
        for (seq, _), num_pages in zip(rows, held, strict=False):
            self._core.truncate(seq, num_pages * self._core.page_size)
        for (seq, processed), num_pages in zip(rows, held, strict=False):
            self._grow(seq, processed, num_pages)

    def _grow(self, seq: int, processed: int, num_pages: int) -> None:
        """Takes blank pages until a sequence has as many as wanted."""
        active = num_pages * self._core.page_size - processed
        if active <= 0:
            return
        granted = self._core.reserve(
            Batch(
                counts([seq]),
                counts([processed]),
                counts([active]),
                [NO_TOKENS],
            ),
            num_steps=1,
            max_onload=0,
        )
        self.carry_out(granted.moves)
