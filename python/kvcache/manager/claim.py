"""One claimed request: what the books say of it, and what its tokens say."""

from dataclasses import dataclass

from kvcache.errors import NotOfferedError, RequestStateError
from kvcache.request import RequestContext, TokenSequence


@dataclass(slots=True)
class Claim:
    """A claimed request; it gets a sequence when its context is first seen."""

    seq: int | None = None
    identity: tuple[str | None, str] | None = None
    num_covered: int = 0
    """Tokens whose keys and values exist, or were fetched to be computed."""
    num_prompt: int = 0
    """Tokens that count as the prompt."""
    num_counted: int = 0
    """Prompt tokens that are in the metrics."""


def check_state(claim: Claim, context: RequestContext) -> None:
    """Verifies that a context is the one that the claim is about."""
    processed = context.tokens.processed_length
    if processed > claim.num_covered:
        raise RequestStateError(
            f"request {context.request_id!r} has {processed} processed tokens, "
            f"its pages have {claim.num_covered}: rewind a request when it is "
            f"released, and fetch what is computed"
        )
    identity = (context.cache_salt, context.model_name)
    if claim.identity is not None and claim.identity != identity:
        raise RequestStateError(
            f"request {context.request_id!r} wants the salt and the model that "
            f"it was first seen with, got others"
        )
    if getattr(context, "images", None):
        raise NotOfferedError(
            f"wanted text only, request {context.request_id!r} has images"
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
