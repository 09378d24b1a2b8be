"""The requests of one replica, and which pages they hold."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvcache.core.digest import namespace
from kvcache.core.interface import Batch, CacheCore, Counts
from kvcache.errors import (
    ClaimError,
    InsufficientPagesError,
    RequestStateError,
    RequestTooLargeError,
    SequenceTooLongError,
    UnknownRequestError,
)
from kvcache.manager.claim import Claim, check_state, skip_hit
from kvcache.metrics import KVCacheMetrics
from kvcache.request import RequestContext
from kvcache.spec import pages_for


@dataclass(frozen=True, slots=True)
class StepTables:
    """One step's batch, on the host."""

    cache_lengths: npt.NDArray[np.uint32]
    lookup_table: npt.NDArray[np.uint32]
    max_lengths: npt.NDArray[np.uint32]


class Replica:
    """The requests that share one pool of pages.

    Args:
        core: Keeps the pages' books, with `max_batch_size` sequences.
        max_batch_size: Requests that can be claimed at a time.
        max_seq_len: Tokens of the longest request.
        is_checking: Whether each call verifies every invariant.
    """

    def __init__(
        self,
        core: CacheCore,
        max_batch_size: int,
        max_seq_len: int,
        *,
        is_checking: bool = False,
    ) -> None:
        """Starts without requests."""
        self.core = core
        self._max_batch_size = max_batch_size
        self._max_seq_len = max_seq_len
        self._is_checking = is_checking
        self._claims: dict[Hashable, Claim] = {}
        self._metrics = KVCacheMetrics()
        self._num_evicted_before = 0

    def __contains__(self, request_id: Hashable) -> bool:
        """Returns whether a request is claimed."""
        return request_id in self._claims

    @property
    def metrics(self) -> KVCacheMetrics:
        """Counts since the start, or since the last reset."""
        evicted = self.core.num_evicted - self._num_evicted_before
        return self._metrics + KVCacheMetrics(evicted_pages=evicted)

    def reset_metrics(self) -> None:
        """Sets every count to zero."""
        self._metrics = KVCacheMetrics()
        self._num_evicted_before = self.core.num_evicted

    def claim(self, request_id: Hashable) -> None:
        """Makes a request known; it holds no page yet.

        Raises:
            ClaimError: If it is known, or no more may be claimed.
        """
        if request_id in self._claims:
            raise ClaimError(f"request {request_id!r} is already claimed")
        if len(self._claims) >= self._max_batch_size:
            raise ClaimError(
                f"wanted one more request, all {self._max_batch_size} are "
                f"claimed"
            )
        self._claims[request_id] = Claim()

    def release(self, request_id: Hashable) -> None:
        """Forgets a request and gives its pages back.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        claim = self._claim(request_id)
        if claim.seq is not None:
            self.core.release(claim.seq)
        del self._claims[request_id]
        self._check()

    def pages(self, request_id: Hashable) -> list[int]:
        """Returns a request's pages in order.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        seq = self._claim(request_id).seq
        pages: list[int] = [] if seq is None else self.core.pages(seq).tolist()
        return pages

    def adopt(self, context: RequestContext) -> int:
        """Takes a request's cached prefix; returns its new tokens."""
        claims, batch = self._gather([context])
        return int(self._settle([context], claims, self.core.adopt(batch))[0])

    def reserve(self, context: RequestContext, num_steps: int) -> bool:
        """Takes a request's pages for some steps, or says no and takes none."""
        claims, batch = self._gather([context])
        self._check_lengths(batch, num_steps)
        try:
            hits = self.core.reserve(batch, num_steps=num_steps)
        except InsufficientPagesError:
            return False
        self._settle([context], claims, hits)
        self._count_input([context], claims)
        return True

    def fetch(
        self, contexts: Sequence[RequestContext], num_steps: int
    ) -> StepTables:
        """Makes the tables of some steps, with pages for all or for none."""
        claims, batch = self._gather(contexts)
        self._check_lengths(batch, num_steps)
        short = self._num_pages(batch, num_steps) > self.core.num_held(
            batch.seqs
        )
        if short.any():
            rows = np.flatnonzero(short).tolist()
            some = [contexts[row] for row in rows]
            some_claims, lacking = self._gather(some)
            hits = self.core.reserve(lacking, num_steps=num_steps)
            self._settle(some, some_claims, hits)
            _, batch = self._gather(contexts)
        self._count_input(contexts, claims)
        ends = batch.processed + batch.active + (num_steps - 1)
        for claim, end in zip(claims, ends.tolist(), strict=True):
            claim.num_covered = max(claim.num_covered, end)
        return self._tables(batch, num_steps)

    def commit(self, contexts: Sequence[RequestContext]) -> None:
        """Makes the full pages of processed tokens findable."""
        _, batch = self._gather(contexts)
        self.core.commit(batch)
        self._check()

    def forget_cached(self) -> None:
        """Makes what no request holds unfindable."""
        self.core.forget_cached()
        self._check()

    def _check(self) -> None:
        if self._is_checking:
            self.core.check()

    def _claim(self, request_id: Hashable) -> Claim:
        claim = self._claims.get(request_id)
        if claim is None:
            raise UnknownRequestError(
                f"wanted a claimed request, got {request_id!r}, which is not"
            )
        return claim

    def _gather(
        self, contexts: Sequence[RequestContext]
    ) -> tuple[list[Claim], Batch]:
        """Reads contexts, once they are known to fit what is held of them."""
        claims = [self._claim(context.request_id) for context in contexts]
        if len({id(claim) for claim in claims}) < len(claims):
            raise RequestStateError("wanted each request once in a batch")
        for claim, context in zip(claims, contexts, strict=True):
            check_state(claim, context)
        tokens = [context.tokens for context in contexts]
        return claims, Batch(
            seqs=_counts(map(self._sequence, claims, contexts)),
            processed=_counts(t.processed_length for t in tokens),
            active=_counts(t.active_length for t in tokens),
            tokens=[t.all for t in tokens],
        )

    def _sequence(self, claim: Claim, context: RequestContext) -> int:
        """Returns a claim's sequence, taking one at first sight."""
        if claim.seq is None:
            salt, model = context.cache_salt, context.model_name
            claim.seq = self.core.claim(
                namespace(cache_salt=salt, model_name=model)
            )
            claim.identity = (salt, model)
            claim.num_prompt = len(context.tokens)
        return claim.seq

    def _check_lengths(self, batch: Batch, num_steps: int) -> None:
        """Verifies that each request fits the longest sequence and the pool."""
        if num_steps < 1:
            raise RequestStateError(
                f"wanted at least 1 step, got num_steps={num_steps}"
            )
        longest = max(map(len, batch.tokens), default=0) + num_steps - 1
        if longest > self._max_seq_len:
            raise SequenceTooLongError(
                f"wanted at most {self._max_seq_len} tokens in a request, got "
                f"{longest} after {num_steps} steps"
            )
        wanted = pages_for(longest, self.core.page_size)
        if wanted > self.core.num_pages:
            raise RequestTooLargeError(wanted=wanted, free=self.core.num_pages)

    def _settle(
        self,
        contexts: Sequence[RequestContext],
        claims: Sequence[Claim],
        hits: Counts,
    ) -> Counts:
        """Moves contexts past their hits and counts these."""
        rows = zip(contexts, claims, hits.tolist(), strict=True)
        for context, claim, hit in rows:
            if not hit:
                continue
            start = context.tokens.processed_length
            skip_hit(context.tokens, hit)
            twice = max(0, min(claim.num_counted, start + hit) - start)
            self._metrics += KVCacheMetrics(-twice, hit)
            claim.num_counted = max(claim.num_counted, start + hit)
            claim.num_covered = max(claim.num_covered, start + hit)
        self._check()
        return hits

    def _count_input(
        self, contexts: Sequence[RequestContext], claims: Sequence[Claim]
    ) -> None:
        """Counts prompt tokens that were not counted before."""
        for context, claim in zip(contexts, claims, strict=True):
            end = min(context.tokens.current_position, claim.num_prompt)
            if end > claim.num_counted:
                self._metrics += KVCacheMetrics(end - claim.num_counted)
                claim.num_counted = end

    def _num_pages(self, batch: Batch, num_steps: int) -> Counts:
        """Returns how many pages some steps of each sequence touch."""
        ends = batch.processed + batch.active + (num_steps - 1)
        pages: Counts = -(-ends // self.core.page_size)
        return pages

    def _tables(self, batch: Batch, num_steps: int) -> StepTables:
        """Writes the arrays of a step, all of them new."""
        num_pages = self._num_pages(batch, num_steps)
        columns = padded_columns(int(num_pages.max(initial=0)))
        null_page = self.core.num_pages
        shape = (len(batch.seqs), columns)
        lookup_table = np.full(shape, null_page, np.uint32)
        self.core.fill(batch.seqs, num_pages, lookup_table)
        longest = int((batch.processed + batch.active).max(initial=0))
        max_lengths = np.ones((num_steps, 2), np.uint32)
        max_lengths[0, 0] = batch.active.max(initial=0)
        max_lengths[:, 1] = np.arange(longest, longest + num_steps)
        return StepTables(
            cache_lengths=batch.processed.astype(np.uint32),
            lookup_table=lookup_table,
            max_lengths=max_lengths,
        )


def padded_columns(columns: int) -> int:
    """Returns the width of a lookup table that MAX's kernels may read.

    They load entries in groups, past the last one that they need; the rule is
    that of `padded_lut_cols` in MAX 26.7.

    Args:
        columns: Columns in use.
    """
    return -(-columns // 8) * 8 + 16


def _counts(values: Iterable[int]) -> Counts:
    return np.array(list(values), np.int64)
