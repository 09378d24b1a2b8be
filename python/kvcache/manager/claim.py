"""One claimed request: what is held for it, against what its tokens say."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import gt, is_, lt, sub

import numpy as np

from kvcache.core.digest import namespace
from kvcache.core.interface import Batch, CacheCore, Counts
from kvcache.errors import (
    NotOfferedError,
    RequestStateError,
    RequestTooLargeError,
    SequenceTooLongError,
)
from kvcache.manager.tables import counts
from kvcache.metrics import KVCacheMetrics
from kvcache.request import (
    RequestContext,
    TokenSequence,
    chunked_of,
    lengths_of,
    windows_of,
)
from kvcache.spec import pages_for

_NO_TOKENS = np.empty(0, np.int64)


@dataclass(slots=True)
class Claim:
    """What is held for a claimed request, in tokens.

    Its core sequence is taken when the request's context is first seen.
    """

    seq: int = -1
    """Its sequence in the core; -1 while there is none."""
    identity: tuple[str | None, str] = (None, "")
    """Salt and model that it was first seen with."""
    namespace: bytes = b""
    """What the core was told of them."""
    capacity: int = 0
    """Tokens that its pages take."""
    num_covered: int = 0
    """Tokens whose keys and values exist, or were fetched to be computed."""
    num_committed: int = 0
    """Tokens in findable pages."""
    num_prompt: int = 0
    """Tokens that count as the prompt."""
    num_counted: int = 0
    """Prompt tokens that are in the metrics."""

    def count_hit(self, context: RequestContext, hit: int) -> KVCacheMetrics:
        """Notes tokens found behind the processed ones; returns the change."""
        start = context.tokens.processed_length
        end = start + hit
        twice = max(0, min(self.num_counted, end) - start)
        self.num_counted = max(self.num_counted, end)
        self.num_covered = max(self.num_covered, end)
        self.capacity = max(self.capacity, end)
        self.num_committed = end
        return KVCacheMetrics(-twice, hit)

    def count_input(self, context: RequestContext) -> KVCacheMetrics:
        """Notes prompt tokens that are computed; returns the change."""
        end = min(context.tokens.current_position, self.num_prompt)
        new = max(0, end - self.num_counted)
        self.num_counted += new
        return KVCacheMetrics(new)


@dataclass(slots=True)
class Met:
    """Requests that are claimed, each once, and known to the core."""

    contexts: Sequence[RequestContext]
    claims: Sequence[Claim]
    seqs: Counts
    starts: list[int] | None = None
    """Windows' beginnings that were found to fit what is held."""
    is_counted: bool = False
    """Whether every prompt token is in the metrics."""

    def is_of(self, contexts: Sequence[RequestContext]) -> bool:
        """Returns whether these are the very same requests."""
        return len(contexts) == len(self.contexts) and all(
            map(is_, contexts, self.contexts)
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch that was verified, and has taken no page yet."""

    met: Met
    starts: list[int]
    """Where each request's active tokens begin."""
    ends: list[int]
    """Where they end."""
    num_steps: int = 1

    @classmethod
    def of(cls, met: Met, num_steps: int = 1) -> "Prepared":
        """Reads the windows of a batch.

        Raises:
            RequestStateError: If one does not fit what is held for it.
        """
        starts, ends = windows_of([each.tokens for each in met.contexts])
        if starts != met.starts:
            check_windows(met, starts)
            met.starts = starts
        return cls(met, starts, ends, num_steps)

    @property
    def lasts(self) -> list[int]:
        """Tokens of each request that its pages must take."""
        further = self.num_steps - 1
        return [end + further for end in self.ends] if further else self.ends

    def lacking(self, *, may_hit: bool = False) -> "Prepared | None":
        """Returns the part of the batch that lacks pages, if there is one.

        Args:
            may_hit: Whether requests count as well that may find a prefix.
        """
        rows = [
            row
            for row, (claim, last) in enumerate(
                zip(self.met.claims, self.lasts, strict=True)
            )
            if last > claim.capacity
        ]
        if may_hit:
            rows = sorted({*rows, *self._may_hit()})
        if not rows:
            return None
        met = Met(
            [self.met.contexts[row] for row in rows],
            [self.met.claims[row] for row in rows],
            self.met.seqs[rows],
        )
        starts = [self.starts[row] for row in rows]
        ends = [self.ends[row] for row in rows]
        return Prepared(met, starts, ends, self.num_steps)

    def batch(self) -> Batch:
        """Returns what the core is told of the requests.

        A request that computes its last token finds no prefix, so its tokens
        are left out.
        """
        active = list(map(sub, self.ends, self.starts))
        tokens = (context.tokens for context in self.met.contexts)
        return Batch(
            seqs=self.met.seqs,
            processed=counts(self.starts),
            active=counts(active),
            tokens=[
                _NO_TOKENS
                if count == 1 and not each.actively_chunked
                else each.all
                for each, count in zip(tokens, active, strict=True)
            ],
        )

    def _may_hit(self) -> list[int]:
        """Returns the rows that compute more than their last token."""
        chunked = chunked_of([each.tokens for each in self.met.contexts])
        rows = zip(self.starts, self.ends, chunked, strict=True)
        return [
            row
            for row, (start, end, is_chunked) in enumerate(rows)
            if end - start > 1 or is_chunked
        ]


def computed_batch(
    contexts: Sequence[RequestContext], claims: Sequence[Claim]
) -> Batch:
    """Returns what the core is told of requests with full pages."""
    tokens = [context.tokens for context in contexts]
    return Batch(
        seqs=counts([claim.seq for claim in claims]),
        processed=counts([each.processed_length for each in tokens]),
        active=counts([1] * len(tokens)),
        tokens=[each.all for each in tokens],
    )


def first_sight(claim: Claim, context: RequestContext, core: CacheCore) -> None:
    """Takes a sequence for a claim whose context was not seen before.

    Raises:
        NotOfferedError: If the request has images: its tokens do not say all
            that its pages depend on.
    """
    if getattr(context, "images", None):
        raise NotOfferedError(
            f"wanted text only, request {context.request_id!r} has images"
        )
    salt, model = context.cache_salt, context.model_name
    claim.namespace = namespace(cache_salt=salt, model_name=model)
    claim.seq = core.claim(claim.namespace)
    claim.identity = (salt, model)
    claim.num_prompt = len(context.tokens)


def check_windows(met: Met, starts: Sequence[int]) -> None:
    """Verifies that windows fit what is held for their requests.

    Raises:
        RequestStateError: If one does not.
    """
    covered = [claim.num_covered for claim in met.claims]
    committed = [claim.num_committed for claim in met.claims]
    if any(map(gt, starts, covered)) or any(map(lt, starts, committed)):
        for claim, context, start in zip(
            met.claims, met.contexts, starts, strict=True
        ):
            check_state(claim, context, start)


def check_state(claim: Claim, context: RequestContext, processed: int) -> None:
    """Verifies that a window fits what is held for its request.

    Raises:
        RequestStateError: If it does not.
    """
    if processed > claim.num_covered:
        raise RequestStateError(
            f"request {context.request_id!r} has {processed} processed tokens, "
            f"its pages have {claim.num_covered}: rewind a request when it is "
            f"released, and fetch what is computed"
        )
    if processed < claim.num_committed:
        raise RequestStateError(
            f"request {context.request_id!r} has {processed} processed tokens, "
            f"{claim.num_committed} were committed: release a request before "
            f"rewinding it this far"
        )


def check_identity(claim: Claim, context: RequestContext) -> None:
    """Verifies that a request is what it was when it was first seen.

    Raises:
        RequestStateError: If its salt or its model changed.
    """
    if claim.identity != (context.cache_salt, context.model_name):
        raise RequestStateError(
            f"request {context.request_id!r} wants the salt and the model that "
            f"it was first seen with, got others"
        )


def check_lengths(
    batch: Prepared, *, max_seq_len: int, core: CacheCore
) -> None:
    """Verifies that each request fits the longest sequence and the pool.

    Raises:
        RequestStateError: If `num_steps` is not positive.
        SequenceTooLongError: If a request would pass `max_seq_len`.
        RequestTooLargeError: If one will never fit the pool.
    """
    if batch.num_steps < 1:
        raise RequestStateError(
            f"wanted at least 1 step, got num_steps={batch.num_steps}"
        )
    lengths = lengths_of([each.tokens for each in batch.met.contexts])
    longest = max(lengths, default=0) + batch.num_steps - 1
    if longest > max_seq_len:
        raise SequenceTooLongError(
            f"wanted at most {max_seq_len} tokens in a request, got "
            f"{longest} after {batch.num_steps} steps"
        )
    wanted = pages_for(longest, core.page_size)
    if wanted > core.num_pages:
        raise RequestTooLargeError(wanted=wanted, free=core.num_pages)


def skip_hit(tokens: TokenSequence, hit: int) -> None:
    """Moves a window past a hit, as `window_after_hit` says."""
    active = tokens.active_length
    if hit < active:
        tokens.skip_processing(hit)
        return
    tokens.advance_chunk()
    if hit > active:
        tokens.skip_processing(hit - active)
    if active < tokens.active_length:
        tokens.chunk(active)
