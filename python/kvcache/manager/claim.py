"""One claimed request: what is held for it, against what its tokens say."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvcache.core.digest import namespace
from kvcache.core.interface import CacheCore
from kvcache.errors import (
    NotOfferedError,
    RequestStateError,
)
from kvcache.metrics import KVCacheMetrics
from kvcache.request import (
    RequestContext,
    TokenSequence,
)


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
    context: RequestContext | None = None
    """The request, as it was last seen."""
    capacity: int = 0
    """Tokens that its pages take."""
    num_covered: int = 0
    """Tokens whose keys and values exist, or were fetched to be computed."""
    num_committed: int = 0
    """Tokens in findable pages."""
    num_shared: int = 0
    """Tokens in pages that were shared by a fork; stays until it truncates."""
    num_prompt: int = 0
    """Tokens that count as the prompt."""
    num_counted: int = 0
    """Prompt tokens that are in the metrics."""
    is_null: bool = False
    """Whether it computes for nobody, on the null page alone."""
    seen_as: int = 0
    """Identity of the object that its context was last seen as."""

    def count_hit(
        self, context: RequestContext, hit: int, *, page_size: int
    ) -> KVCacheMetrics:
        """Notes tokens found behind the processed ones; returns the change.

        A hit that ends inside a page has copied that page's beginning.
        """
        start = context.tokens.processed_length
        end = start + hit
        twice = max(0, min(self.num_counted, end) - start)
        self.num_counted = max(self.num_counted, end)
        self.num_covered = max(self.num_covered, end)
        self.capacity = max(self.capacity, end)
        num_partial = end % page_size
        self.num_committed = end - num_partial
        return KVCacheMetrics(-twice, hit, partial_tokens=num_partial)

    def count_input(self, context: RequestContext) -> KVCacheMetrics:
        """Notes prompt tokens that are computed; returns the change."""
        end = min(context.tokens.current_position, self.num_prompt)
        new = max(0, end - self.num_counted)
        self.num_counted += new
        return KVCacheMetrics(new)


def check_text(context: RequestContext) -> None:
    """Verifies that a request's tokens say all that its pages depend on.

    Raises:
        NotOfferedError: If it has images.
    """
    if getattr(context, "images", None):
        raise NotOfferedError(
            f"wanted text only, request {context.request_id!r} has images"
        )


def cover(claims: Sequence[Claim], lasts: Sequence[int]) -> None:
    """Notes up to where requests were fetched to be computed."""
    for claim, last in zip(claims, lasts, strict=True):
        if last > claim.num_covered:  # noqa: PLR1730  (`max` takes thrice as long)
            claim.num_covered = last


def first_sight(claim: Claim, context: RequestContext, core: CacheCore) -> None:
    """Takes a sequence for a claim whose context was not seen before.

    Raises:
        NotOfferedError: If the request has images.
    """
    check_text(context)
    salt, model = context.cache_salt, context.model_name
    claim.namespace = namespace(cache_salt=salt, model_name=model)
    claim.seq = core.claim(claim.namespace)
    claim.identity = (salt, model)
    claim.num_prompt = len(context.tokens)


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
            f"{claim.num_committed} were committed: release or truncate a "
            f"request before rewinding it this far"
        )
    if processed < claim.num_shared:
        raise RequestStateError(
            f"request {context.request_id!r} has {processed} processed tokens, "
            f"{claim.num_shared} were shared by a fork: truncate a request "
            f"before rewinding it this far"
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
