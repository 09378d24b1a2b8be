"""The requests of one replica, and which pages they hold."""

import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace

from kvcache.core.interface import (
    CacheCore,
    Counts,
    window_after_hit,
)
from kvcache.errors import InsufficientPagesError
from kvcache.manager.claim import Claim, skip_hit
from kvcache.manager.claims import Claims
from kvcache.manager.lending import FindOffer, Offer
from kvcache.manager.max_replica import MaxReplica
from kvcache.manager.pinning import Pins
from kvcache.manager.prepared import Met, Prepared
from kvcache.manager.retention import Clock, Keeper
from kvcache.manager.tables import StepTables, counts, step_tables
from kvcache.manager.taking import PageTaker
from kvcache.metrics import KVCacheMetrics, PromptCounts
from kvcache.request import RequestContext, windows_of
from kvcache.spec import pages_for


class Replica(MaxReplica):
    """The requests that share one pool of pages.

    Args:
        core: Keeps the pages' books, with `max_batch_size` sequences.
        max_batch_size: Requests that can be claimed at a time.
        max_seq_len: Tokens of the longest request.
        taker: Takes pages from the books.
        is_checking: Whether each call verifies every invariant.
        clock: Says the time, in seconds.
    """

    find_offer: FindOffer | None = None
    """Finds prefixes that other replicas hold; None if none is to be copied."""
    pins: Pins
    """What stays when requests leave."""
    min_partial: int | None = None
    """Tokens of a page from which on its beginning is copied; None: never."""

    def __init__(
        self,
        core: CacheCore,
        max_batch_size: int,
        max_seq_len: int,
        taker: PageTaker,
        *,
        is_checking: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        """Starts without requests."""
        self.core = core
        self.taker = taker
        self.max_batch_size = max_batch_size
        self._max_seq_len = max_seq_len
        self._is_checking = is_checking
        self.keeper = Keeper(core, clock)
        self.claims = Claims(core, max_batch_size, self.keeper)
        self._metrics = KVCacheMetrics()
        self.prompts = PromptCounts()
        self._num_evicted_before = 0

    def __contains__(self, request_id: Hashable) -> bool:
        """Returns whether a request is claimed."""
        return request_id in self.claims

    @property
    def num_requests(self) -> int:
        """Requests that are claimed."""
        return len(self.claims)

    @property
    def metrics(self) -> KVCacheMetrics:
        """Counts since the start, or since the last reset."""
        evicted = self.core.num_evicted - self._num_evicted_before
        own = self._metrics + self.taker.metrics + self.prompts.metrics
        return own + KVCacheMetrics(evicted_pages=evicted)

    def reset_metrics(self) -> None:
        """Sets every count to zero."""
        self._metrics = self.taker.metrics = KVCacheMetrics()
        self.prompts = PromptCounts()
        self._num_evicted_before = self.core.num_evicted

    def count(self, change: KVCacheMetrics) -> None:
        """Adds to the metrics."""
        self._metrics += change

    def claim(self, request_id: Hashable) -> None:
        """Makes a request known; it holds no page yet.

        Raises:
            ClaimError: If it is known, or no more may be claimed.
        """
        self.claims.add(request_id, Claim())

    def release(self, request_id: Hashable) -> None:
        """Forgets a request and gives its pages back.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        self.claims.remove(request_id)
        self.verify()

    def pages(self, request_id: Hashable) -> list[int]:
        """Returns a request's pages in order.

        Raises:
            UnknownRequestError: If it is not claimed.
        """
        seq = self.claims[request_id].seq
        pages: list[int] = self.core.pages(seq).tolist() if seq >= 0 else []
        return pages

    def adopt(self, context: RequestContext) -> int:
        """Takes a request's cached prefix; returns its new tokens."""
        claim = self.claims.meet_one(context)
        one = Prepared.of(_met_one(context, claim))
        before = context.tokens.processed_length
        offer = self._offer(context, claim)
        if offer is None or not self._take_offer(one, offer, end=offer.end):
            self.keeper.tick()
            self._settle(one, self.taker.adopt(one.batch()))
        self.verify()
        return context.tokens.processed_length - before

    def reserve(self, context: RequestContext, num_steps: int) -> bool:
        """Takes a request's pages for some steps, or says no and takes none."""
        claim, tokens = self.claims.meet_one(context), context.tokens
        one = self._prepared(_met_one(context, claim), num_steps)
        may_hit = self.core.enable_prefix_caching and (
            tokens.active_length > 1 or tokens.actively_chunked
        )
        is_done = may_hit and self._reserve_with_offer(one)
        if not is_done and (may_hit or one.lasts[0] > claim.capacity):
            try:
                self._take(one)
            except InsufficientPagesError:
                return False
        self._count_input(one.met)
        self.verify()
        return True

    def reserve_batch(self, batch: Prepared) -> None:
        """Takes a batch's pages for some steps, with their cached prefixes.

        Raises:
            InsufficientPagesError: If they are not there for all of it.
        """
        wanting = batch.lacking(may_hit=self.core.enable_prefix_caching)
        if wanting is None or not self._take(wanting):
            batch.met.reserved = (batch.ends, batch.num_steps)
        self._count_input(batch.met)
        self.verify()

    def prepare(
        self, contexts: Sequence[RequestContext], num_steps: int
    ) -> Prepared:
        """Verifies a batch before some steps; takes no page."""
        return self._prepared(self.claims.meet(contexts), num_steps)

    def check_pages(self, batch: Prepared, *, may_hit: bool = False) -> None:
        """Verifies that `fetch` will find the pages of a batch.

        Args:
            batch: The batch.
            may_hit: Whether `reserve_batch` will look for them instead.

        Raises:
            InsufficientPagesError: If it will not.
        """
        if lacking := batch.lacking(may_hit=may_hit):
            self.taker.check_reserve(
                lacking.batch(), num_steps=lacking.num_steps
            )

    def fetch(self, batch: Prepared) -> StepTables:
        """Makes the tables of some steps, with pages for all or for none."""
        starts, ends, met = batch.starts, batch.ends, batch.met
        if lacking := batch.lacking():
            self._take(lacking)  # Hits move windows.
            starts, ends = windows_of(batch.tokens)
        self._count_input(met)
        self.verify()
        further = batch.num_steps - 1
        met.cover([end + further for end in ends] if further else ends)
        return step_tables(
            self.core,
            met.seqs,
            starts=starts,
            ends=ends,
            num_steps=batch.num_steps,
        )

    def check_windows(self, contexts: Sequence[RequestContext]) -> None:
        """Verifies that `commit` works.

        Raises:
            UnknownRequestError: If a request is not claimed.
            RequestStateError: If its tokens do not fit what it holds.
        """
        self.claims.meet(contexts).processed()

    def commit(self, contexts: Sequence[RequestContext]) -> None:
        """Makes the full pages of processed tokens findable."""
        met, size = self.claims.meet(contexts), self.core.page_size
        starts = met.processed()
        if self.core.enable_prefix_caching and (rows := met.full(starts, size)):
            self.core.commit(met.computed(rows, starts))
            met.commit(rows, starts, size)
        self.verify()

    def forget_cached(self) -> None:
        """Makes what no request holds unfindable."""
        self.core.forget_cached()
        self.verify()

    def verify(self) -> None:
        """Verifies every invariant if that was asked for.

        Raises:
            AssertionError: If one is broken.
        """
        if self._is_checking:
            self.core.check()

    def _prepared(self, met: Met, num_steps: int) -> Prepared:
        batch = Prepared.of(met, num_steps)
        if batch.is_reserved:
            return batch
        batch.check_lengths(max_seq_len=self._max_seq_len, core=self.core)
        return batch

    def _take(self, batch: Prepared) -> bool:
        """Takes the pages of some steps, with hits, for all or for none.

        Returns:
            Whether there were hits, which move windows.
        """
        self.keeper.tick()
        hits = self.taker.reserve(
            batch.batch(),
            num_steps=batch.num_steps,
            min_partial=self.min_partial,
        )
        size, lasts = self.core.page_size, batch.lasts
        has_hits = bool(hits.any())
        if has_hits:
            self._settle(batch, hits)
            ends = windows_of(batch.tokens)[1]
            lasts = [end + batch.num_steps - 1 for end in ends]
        for claim, last in zip(batch.met.claims, lasts, strict=True):
            claim.capacity = max(claim.capacity, pages_for(last, size) * size)
        return has_hits

    def _offer(self, context: RequestContext, claim: Claim) -> Offer | None:
        """Finds what another replica holds of a request and this one not."""
        is_at_a_page = context.tokens.processed_length == claim.num_committed
        if self.find_offer is None or not is_at_a_page:
            return None
        return self.find_offer(claim.namespace, context.tokens.all)

    def _reserve_with_offer(self, one: Prepared) -> bool:
        """Takes pages with a prefix of another replica, if there is one."""
        context = one.met.contexts[0]
        offer = self._offer(context, one.met.claims[0])
        if offer is None:
            return False
        tokens = context.tokens
        _, end = window_after_hit(
            processed=tokens.processed_length,
            active=tokens.active_length,
            length=len(tokens),
            hit=offer.end - tokens.processed_length,
        )
        return self._take_offer(one, offer, end=end + one.num_steps - 1)

    def _take_offer(self, one: Prepared, offer: Offer, *, end: int) -> bool:
        """Takes pages for `end` tokens, and what they hold from elsewhere."""
        claim, context = one.met.claims[0], one.met.contexts[0]
        size, start = self.core.page_size, context.tokens.processed_length
        batch = replace(one.batch(), tokens=[context.tokens.all])
        self.keeper.tick()
        with suppress(InsufficientPagesError):
            wider = replace(batch, active=counts([end - start]))
            (hit,) = self.taker.reserve(wider, num_steps=1).tolist()
            column = (start + hit) // size
            pages = self.core.pages(claim.seq)[column : offer.end // size]
            offer.copy(column, pages.tolist())
            self.core.commit(replace(batch, processed=counts([offer.end])))
            self._metrics += KVCacheMetrics(copied_pages=len(pages))
            self._settle(one, counts([offer.end - start]))
            claim.capacity = max(claim.capacity, pages_for(end, size) * size)
            return True
        return False

    def _settle(self, batch: Prepared, hits: Counts) -> None:
        """Moves contexts past their hits and counts these."""
        met = batch.met
        rows = zip(met.contexts, met.claims, hits.tolist(), strict=True)
        for context, claim, hit in rows:
            if hit:
                size = self.core.page_size
                self._metrics += claim.count_hit(context, hit, page_size=size)
                skip_hit(context.tokens, hit)

    def _count_input(self, met: Met) -> None:
        """Counts prompt tokens that were not counted before."""
        if met.is_counted:
            return
        for context, claim in zip(met.contexts, met.claims, strict=True):
            if claim.num_counted < claim.num_prompt:
                self._metrics += claim.count_input(context)
        met.is_counted = all(
            claim.num_counted >= claim.num_prompt for claim in met.claims
        )


def _met_one(context: RequestContext, claim: Claim) -> Met:
    return Met([context], [claim], counts([claim.seq]))
