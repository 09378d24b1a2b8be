"""What MAX's calls do to the requests of one replica."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from kvcache.core.interface import Batch, CacheCore, Counts
from kvcache.errors import RequestStateError
from kvcache.manager.claim import Claim, check_state, cover
from kvcache.manager.claims import Claims
from kvcache.manager.max_errors import (
    BlocksShortError,
    RequestTooLargeForBlocksError,
)
from kvcache.manager.retention import Keeper
from kvcache.manager.tables import NO_TOKENS, StepTables, counts, padded_columns
from kvcache.manager.taking import PageTaker
from kvcache.request import (
    RequestContext,
    TokenIds,
    TokenSequence,
    windows_of,
)
from kvcache.spec import pages_for


@dataclass(frozen=True, slots=True)
class AllocatedStep:
    """One step of requests that have their pages."""

    tables: StepTables
    """What the graph is told."""
    claims: Sequence[Claim]
    """What is held for the requests."""
    ends: Counts
    """Tokens of each behind the step, `[batch]`."""

    def cover(self) -> None:
        """Notes that the step is computed."""
        cover(self.claims, self.ends.tolist())


class MaxReplica(ABC):
    """One request at a time, as schedulers written for MAX ask.

    MAX's rules differ from the seed's: a shortage is an exception, and a
    prompt that ends inside a page still takes that page from the cache, once
    another request has filled it.
    """

    core: CacheCore
    """Keeps the pages' books."""
    num_computed: int = 0
    """Tokens that were allocated to be computed."""
    num_served: int = 0
    """Tokens that the cache spared."""
    claims: Claims
    """What is held for each request."""
    taker: PageTaker
    """Takes pages and moves their contents."""
    keeper: Keeper
    """Tells the books the time."""
    _max_seq_len: int

    @abstractmethod
    def reserve(self, context: RequestContext, num_steps: int) -> bool:
        """Takes a request's pages, or says no and takes none."""

    @abstractmethod
    def commit(self, contexts: Sequence[RequestContext]) -> None:
        """Makes full pages findable."""

    @abstractmethod
    def verify(self) -> None:
        """Verifies every invariant if that was asked for."""

    @abstractmethod
    def pages(self, request_id: Hashable) -> list[int]:
        """Returns a request's pages in order."""

    def make_null(self, request_id: Hashable) -> None:
        """Lets a request that holds nothing have the null page alone."""
        size = self.core.page_size
        self.claims.remove(request_id)
        claim = Claim(capacity=size, num_covered=size, is_null=True)
        self.claims.add(request_id, claim)

    def alloc(self, context: RequestContext) -> None:
        """Takes the cached prefix of a request, and the pages behind it.

        Raises:
            InsufficientPagesError: If the pages are not there. Nothing has
                changed then.
        """
        claim = self.claims.of(context)
        tokens = context.tokens
        active = tokens.active_length
        if active == 1:  # The common case: nothing can hit.
            end = tokens.processed_length + 1
            if end <= self._max_seq_len and (
                end <= claim.capacity or self._take_next(claim, end)
            ):
                self.num_computed += 1
                return
        self._alloc(context, claim)
        self.num_computed += tokens.active_length

    def allocated(
        self,
        contexts: Sequence[RequestContext],
        *,
        max_cache_length: int | None = None,
    ) -> AllocatedStep:
        """Makes the tables of one step; changes nothing.

        Args:
            contexts: The requests, in the order of the model's inputs.
            max_cache_length: Tokens that the lookup table must have columns
                for, at least; those of the longest request if None.

        Raises:
            RequestStateError: If a request lacks pages or is there twice, or
                there cannot be as many columns.
        """
        claims, starts, ends = self._windows(contexts)
        size = self.core.page_size
        longest = int(ends.max(initial=0))
        if max_cache_length is not None:
            self._check_columns(max_cache_length, longest)
        columns = pages_for(max_cache_length or longest, size)
        table = np.full(
            (len(claims), padded_columns(columns)),
            self.core.num_pages,
            np.uint32,
        )
        self._fill(counts([c.seq for c in claims]), -(-ends // size), table)
        active = (ends - starts).max(initial=0)
        tables = StepTables(
            cache_lengths=starts.astype(np.uint32),
            lookup_table=table,
            max_lengths=np.array([[active, longest]], np.uint32),
        )
        return AllocatedStep(tables, claims, ends)

    def commit_one(self, context: RequestContext) -> None:
        """Makes the full pages of one request findable."""
        claim = self.claims.of(context)
        processed = context.tokens.processed_length
        if processed > claim.num_covered:
            check_state(claim, context, processed)
        is_due = processed >= claim.num_committed + self.core.page_size
        if is_due and not claim.is_null:
            self._commit_full(context, claim)

    def _take_next(self, claim: Claim, end: int) -> bool:
        """Takes the page that a decoding request is about to begin.

        Returns:
            Whether that was all there is to do; if not, `_alloc` finds out.
        """
        size, core = self.core.page_size, self.core
        if claim.seq < 0 or end != claim.capacity + 1 or not core.num_free:
            return False
        self.keeper.tick()
        self.taker.reserve(_one(claim, end - 1, NO_TOKENS), num_steps=1)
        claim.capacity = pages_for(end, size) * size
        self.verify()
        return True

    def _commit_full(self, context: RequestContext, claim: Claim) -> None:
        """Makes the full pages of a request findable."""
        check_state(claim, context, context.tokens.processed_length)
        if claim.seq < 0:
            self.commit([context])
            return
        if self.core.enable_prefix_caching:
            processed, size = (
                context.tokens.processed_length,
                self.core.page_size,
            )
            self.core.commit(_one(claim, processed, context.tokens.all))
            claim.num_committed = processed // size * size
            self.verify()

    def held(self, request_id: Hashable) -> list[int]:
        """Returns a request's pages in order, the null page included."""
        if self.claims[request_id].is_null:
            return [self.core.num_pages]
        return self.pages(request_id)

    def _alloc(self, context: RequestContext, claim: Claim) -> None:
        """Takes pages where they may lack, or where some may be cached."""
        tokens, size = context.tokens, self.core.page_size
        if claim.is_null:
            if tokens.current_position > claim.capacity:
                raise RequestStateError(
                    f"wanted at most {size} tokens on the null page, got "
                    f"{tokens.current_position}"
                )
            return
        wanted = pages_for(len(tokens), size)
        if wanted > self.core.num_pages:
            raise RequestTooLargeForBlocksError(
                wanted=wanted, free=self.core.num_pages
            )
        is_first = tokens.processed_length == 0
        may_hit = self.core.enable_prefix_caching and tokens.active_length > 1
        with _rewound(tokens, claim, size if may_hit else 0):
            start = tokens.processed_length
            if not self.reserve(context, 1):
                self._raise_shortage(context)
            hit = tokens.processed_length - start
        self.num_served += hit
        if is_first and may_hit and hasattr(context, "cached_prefix_length"):
            noted = cast("Any", context)  # Only MAX's requests keep note.
            noted.cached_prefix_length = hit
            noted.cached_prefix_external_length = 0

    def _raise_shortage(self, context: RequestContext) -> None:
        wanted = pages_for(context.tokens.current_position, self.core.page_size)
        held = len(self.pages(context.request_id))
        raise BlocksShortError(
            wanted=max(1, wanted - held), free=self.core.num_free
        )

    def _windows(
        self, contexts: Sequence[RequestContext]
    ) -> tuple[list[Claim], Counts, Counts]:
        """Returns claims and windows of requests that have their pages."""
        claims = [self.claims.of(context) for context in contexts]
        starts, ends = windows_of([context.tokens for context in contexts])
        rows = zip(contexts, claims, starts, ends, strict=True)
        for context, claim, start, end in rows:
            if end > claim.capacity:
                raise RequestStateError(
                    f"wanted `alloc` first: request {context.request_id!r} has "
                    f"{end} tokens, its pages take {claim.capacity}"
                )
            if start > claim.num_covered:
                check_state(claim, context, start)
        if len(set(map(id, claims))) < len(claims):
            raise RequestStateError("wanted each request once in a batch")
        return claims, counts(starts), counts(ends)

    def _check_columns(self, max_cache_length: int, longest: int) -> None:
        """Verifies that a table may be as wide as is wanted."""
        size, num_pages = self.core.page_size, self.core.num_pages
        least = max(1, pages_for(longest, size))
        if not least <= pages_for(max_cache_length, size) <= num_pages:
            raise RequestStateError(
                f"max_cache_length must be from {max(1, longest)} to "
                f"{num_pages * size} tokens, got {max_cache_length}"
            )

    def _fill(self, seqs: Counts, num_pages: Counts, table: Any) -> None:
        """Writes pages into a table; null claims have none to write."""
        rows = np.flatnonzero(seqs >= 0)
        if len(rows) == len(seqs):
            self.core.fill(seqs, num_pages, table)
            return
        part = table[rows]
        self.core.fill(seqs[rows], num_pages[rows], part)
        table[rows] = part


def _one(claim: Claim, processed: int, tokens: TokenIds) -> Batch:
    """Returns what the core is told of one request that decodes."""
    return Batch(
        counts([claim.seq]), counts([processed]), counts([1]), [tokens]
    )


@contextmanager
def _rewound(
    tokens: TokenSequence, claim: Claim, page_size: int
) -> Iterator[None]:
    """Goes back to where the page begins that a request is computing.

    The core looks prefixes up from there. What no hit has replaced is taken as
    processed again at the end, also where an exception ends it.

    Args:
        tokens: The request's tokens.
        claim: What is held for it.
        page_size: Tokens per page; 0 if nothing is to be looked up.
    """
    before, begin = tokens.processed_length, claim.num_committed
    findable = (len(tokens) - 1) // page_size * page_size if page_size else 0
    if begin < before <= claim.num_covered and findable > begin:
        tokens.rewind_processing(before - begin)
    try:
        yield
    finally:
        if tokens.processed_length < before:
            tokens.skip_processing(before - tokens.processed_length)
