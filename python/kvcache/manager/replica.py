"""The requests of one replica, and which pages they hold."""

from collections.abc import Hashable, Sequence

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
from kvcache.manager.claim import (
    Claim,
    check_first_sight,
    check_state,
    skip_hit,
)
from kvcache.manager.max_replica import MaxReplica
from kvcache.manager.tables import StepTables, counts, step_tables
from kvcache.metrics import KVCacheMetrics
from kvcache.request import RequestContext
from kvcache.spec import pages_for


class Replica(MaxReplica):
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
        if claim.seq >= 0:
            self.core.release(claim.seq)
        del self._claims[request_id]
        self._check()

    def pages(self, request_id: Hashable) -> list[int]:
        """Returns a request's pages in order.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        seq = self._claim(request_id).seq
        pages: list[int] = self.core.pages(seq).tolist() if seq >= 0 else []
        return pages

    def adopt(self, context: RequestContext) -> int:
        """Takes a request's cached prefix; returns its new tokens."""
        claims = self._meet([context])
        hits = self.core.adopt(_batch([context], claims))
        self._settle([context], claims, hits)
        self._check()
        return int(hits[0])

    def reserve(self, context: RequestContext, num_steps: int) -> bool:
        """Takes a request's pages for some steps, or says no and takes none."""
        claims = self._meet([context])
        self._check_lengths([context], num_steps)
        tokens = context.tokens
        may_hit = self.core.enable_prefix_caching and (
            tokens.active_length > 1 or tokens.actively_chunked
        )
        end = tokens.current_position + num_steps - 1
        if may_hit or end > claims[0].capacity:
            try:
                self._take([context], claims, num_steps)
            except InsufficientPagesError:
                return False
        self._count_input([context], claims)
        self._check()
        return True

    def fetch(
        self, contexts: Sequence[RequestContext], num_steps: int
    ) -> StepTables:
        """Makes the tables of some steps, with pages for all or for none."""
        claims = self._meet(contexts)
        self._check_lengths(contexts, num_steps)
        lacking = [
            row
            for row, (claim, context) in enumerate(
                zip(claims, contexts, strict=True)
            )
            if context.tokens.current_position + num_steps - 1 > claim.capacity
        ]
        if lacking:
            self._take(
                [contexts[row] for row in lacking],
                [claims[row] for row in lacking],
                num_steps,
            )
        self._count_input(contexts, claims)
        self._check()
        for context, claim in zip(contexts, claims, strict=True):
            end = context.tokens.current_position + num_steps - 1
            claim.num_covered = max(claim.num_covered, end)
        seqs = counts([claim.seq for claim in claims])
        return step_tables(self.core, seqs, contexts, num_steps)

    def commit(self, contexts: Sequence[RequestContext]) -> None:
        """Makes the full pages of processed tokens findable."""
        claims = self._meet(contexts)
        if self.core.enable_prefix_caching:
            size = self.core.page_size
            due = [
                (context, claim)
                for context, claim in zip(contexts, claims, strict=True)
                if context.tokens.processed_length >= claim.num_committed + size
            ]
            if due:
                self.core.commit(_batch(*map(list, zip(*due, strict=True))))
            for context, claim in due:
                processed = context.tokens.processed_length
                claim.num_committed = processed // size * size
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

    def _meet(self, contexts: Sequence[RequestContext]) -> list[Claim]:
        """Returns the claims of contexts that fit what is held for them."""
        claims = []
        for context in contexts:
            claim = self._claim(context.request_id)
            if claim.seq < 0:
                self._first_sight(claim, context)
            check_state(claim, context, context.tokens.processed_length)
            claims.append(claim)
        if len({claim.seq for claim in claims}) < len(claims):
            raise RequestStateError("wanted each request once in a batch")
        return claims

    def _first_sight(self, claim: Claim, context: RequestContext) -> None:
        """Takes a sequence for a claim whose context was not seen before."""
        check_first_sight(context)
        salt, model = context.cache_salt, context.model_name
        claim.seq = self.core.claim(
            namespace(cache_salt=salt, model_name=model)
        )
        claim.identity = (salt, model)
        claim.num_prompt = len(context.tokens)

    def _take(
        self,
        contexts: Sequence[RequestContext],
        claims: Sequence[Claim],
        num_steps: int,
    ) -> None:
        """Takes the pages of some steps, with hits, for all or for none."""
        hits = self.core.reserve(_batch(contexts, claims), num_steps=num_steps)
        self._settle(contexts, claims, hits)
        size = self.core.page_size
        for context, claim in zip(contexts, claims, strict=True):
            end = context.tokens.current_position + num_steps - 1
            claim.capacity = max(claim.capacity, pages_for(end, size) * size)

    def _check_lengths(
        self, contexts: Sequence[RequestContext], num_steps: int
    ) -> None:
        """Verifies that each request fits the longest sequence and the pool."""
        if num_steps < 1:
            raise RequestStateError(
                f"wanted at least 1 step, got num_steps={num_steps}"
            )
        lengths = (len(context.tokens) for context in contexts)
        longest = max(lengths, default=0) + num_steps - 1
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
    ) -> None:
        """Moves contexts past their hits and counts these."""
        rows = zip(contexts, claims, hits.tolist(), strict=True)
        for context, claim, hit in rows:
            if not hit:
                continue
            start = context.tokens.processed_length
            end = start + hit
            skip_hit(context.tokens, hit)
            twice = max(0, min(claim.num_counted, end) - start)
            self._metrics += KVCacheMetrics(-twice, hit)
            claim.num_counted = max(claim.num_counted, end)
            claim.num_covered = max(claim.num_covered, end)
            claim.capacity = max(claim.capacity, end)
            claim.num_committed = end

    def _count_input(
        self, contexts: Sequence[RequestContext], claims: Sequence[Claim]
    ) -> None:
        """Counts prompt tokens that were not counted before."""
        for context, claim in zip(contexts, claims, strict=True):
            end = min(context.tokens.current_position, claim.num_prompt)
            if end > claim.num_counted:
                self._metrics += KVCacheMetrics(end - claim.num_counted)
                claim.num_counted = end


def _batch(
    contexts: Sequence[RequestContext], claims: Sequence[Claim]
) -> Batch:
    """Returns what the core is told of some requests."""
    tokens = [context.tokens for context in contexts]
    return Batch(
        seqs=counts([claim.seq for claim in claims]),
        processed=counts([t.processed_length for t in tokens]),
        active=counts([t.active_length for t in tokens]),
        tokens=[t.all for t in tokens],
    )
