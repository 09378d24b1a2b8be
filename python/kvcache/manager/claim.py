"""One claimed request: what is held for it, against what its tokens say."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvcache.core.digest import namespace
from kvcache.core.interface import Batch, CacheCore
from kvcache.errors import (
    NotOfferedError,
    RequestStateError,
    RequestTooLargeError,
    SequenceTooLongError,
)
from kvcache.manager.tables import counts
from kvcache.metrics import KVCacheMetrics
from kvcache.request import RequestContext, TokenSequence
from kvcache.spec import pages_for


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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch that was verified, and has taken no page yet."""

    contexts: Sequence[RequestContext]
    claims: Sequence[Claim]
    num_steps: int

    @property
    def ends(self) -> list[int]:
        """Tokens of each request that its pages must take."""
        return [end_of(context, self.num_steps) for context in self.contexts]

    def lacking(self) -> "Prepared | None":
        """Returns the part of the batch that lacks pages, if there is one."""
        pairs = zip(self.claims, self.ends, strict=True)
        rows = [
            i for i, (claim, end) in enumerate(pairs) if end > claim.capacity
        ]
        if not rows:
            return None
        return Prepared(
            [self.contexts[row] for row in rows],
            [self.claims[row] for row in rows],
            self.num_steps,
        )

    def batch(self) -> Batch:
        """Returns what the core is told of the requests."""
        tokens = [context.tokens for context in self.contexts]
        return Batch(
            seqs=counts([claim.seq for claim in self.claims]),
            processed=counts([t.processed_length for t in tokens]),
            active=counts([t.active_length for t in tokens]),
            tokens=[t.all for t in tokens],
        )


def end_of(context: RequestContext, num_steps: int) -> int:
    """Returns the tokens that a request has behind some steps, at most."""
    return context.tokens.current_position + num_steps - 1


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


def check_state(claim: Claim, context: RequestContext, processed: int) -> None:
    """Verifies that a context fits what is held for it.

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
    if claim.identity != (context.cache_salt, context.model_name):
        raise RequestStateError(
            f"request {context.request_id!r} wants the salt and the model that "
            f"it was first seen with, got others"
        )


def check_lengths(
    contexts: Sequence[RequestContext],
    num_steps: int,
    *,
    max_seq_len: int,
    core: CacheCore,
) -> None:
    """Verifies that each request fits the longest sequence and the pool.

    Raises:
        RequestStateError: If `num_steps` is not positive.
        SequenceTooLongError: If a request would pass `max_seq_len`.
        RequestTooLargeError: If one will never fit the pool.
    """
    if num_steps < 1:
        raise RequestStateError(
            f"wanted at least 1 step, got num_steps={num_steps}"
        )
    lengths = (len(context.tokens) for context in contexts)
    longest = max(lengths, default=0) + num_steps - 1
    if longest > max_seq_len:
        raise SequenceTooLongError(
            f"wanted at most {max_seq_len} tokens in a request, got "
            f"{longest} after {num_steps} steps"
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
