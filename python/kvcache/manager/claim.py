"""One claimed request: what is held for it, against what its tokens say."""

from dataclasses import dataclass

from kvcache.errors import NotOfferedError, RequestStateError
from kvcache.request import RequestContext, TokenSequence


@dataclass(slots=True)
class Claim:
    """What is held for a claimed request, in tokens.

    Its core sequence is taken when the request's context is first seen.
    """

    seq: int = -1
    """Its sequence in the core; -1 while there is none."""
    identity: tuple[str | None, str] = (None, "")
    """Salt and model that it was first seen with."""
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


def check_first_sight(context: RequestContext) -> None:
    """Verifies that tokens say all that a request's pages depend on.

    Raises:
        NotOfferedError: If the request has images.
    """
    if getattr(context, "images", None):
        raise NotOfferedError(
            f"wanted text only, request {context.request_id!r} has images"
        )


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
