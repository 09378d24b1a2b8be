"""Requests that branch off others, and requests that go back."""

import numpy as np

from kvcache.errors import RequestStateError
from kvcache.manager.claim import (
    Claim,
    check_identity,
    check_state,
    check_text,
    skip_hit,
)
from kvcache.manager.replica import Replica
from kvcache.manager.retention import Wish
from kvcache.metrics import KVCacheMetrics
from kvcache.request import RequestContext
from kvcache.spec import pages_for


def fork(
    member: Replica,
    context: RequestContext,
    new: RequestContext,
    length: int | None,
) -> None:
    """Claims a request that shares what another one has computed.

    Args:
        member: The replica of both.
        context: The request to branch off from.
        new: The request that branches off.
        length: Tokens to share; None for all that are processed.

    Raises:
        ClaimError: If no more requests may be claimed.
        NotOfferedError: If the new request has images.
        RetentionError: If its own retention is out of range.
        RequestStateError: If the requests do not fit each other.
    """
    claim, size = member.claims.meet_one(context), member.core.page_size
    processed = context.tokens.processed_length
    check_state(claim, context, processed)
    shared = processed if length is None else length
    _check_branch(claim, context, new, shared)
    wish = Wish.of(new)
    if wish != Wish():
        member.keeper.tick()  # A clock that fails does so first.
    branch = Claim(
        identity=claim.identity,
        namespace=claim.namespace,
        context=new,
        capacity=shared // size * size,  # It reserves before it writes.
        num_covered=shared,
        num_committed=min(claim.num_committed, shared // size * size),
        num_shared=shared,
        num_prompt=len(new.tokens),
        num_counted=shared,
    )
    member.claims.add(new.request_id, branch)
    try:
        branch.seq = member.core.fork(claim.seq, shared)
    except Exception:
        member.claims.remove(new.request_id)
        raise
    kept = min(processed, pages_for(shared, size) * size)
    if wish != Wish():
        member.keeper.keep(branch.seq, wish)
    claim.num_shared = max(claim.num_shared, kept)
    skip_hit(new.tokens, shared)
    member.count(KVCacheMetrics(cache_tokens=shared))
    member.claims.forget_batch()
    member.verify()


def truncate(
    member: Replica, context: RequestContext, length: int | None
) -> None:
    """Moves a request's window back, and gives the pages beyond back.

    Args:
        member: Its replica.
        context: The request.
        length: Processed tokens that stay; None for all there are.

    Raises:
        RequestStateError: If they are not among those that are processed, or
            more are processed than were fetched.
    """
    claim, size = member.claims.meet_one(context), member.core.page_size
    processed = context.tokens.processed_length
    kept = processed if length is None else length
    if not 0 <= kept <= processed:
        raise RequestStateError(
            f"wanted to keep from 0 to the {processed} processed tokens of "
            f"request {context.request_id!r}, got {kept}"
        )
    if processed > claim.num_covered:
        check_state(claim, context, processed)
    context.tokens.rewind_processing(processed - kept)
    member.core.truncate(claim.seq, kept)
    whole = kept // size * size
    claim.num_covered = kept
    claim.num_shared = min(claim.num_shared, kept)
    claim.num_committed = min(claim.num_committed, whole)
    # A begun page may be others' as well: `reserve` finds out.
    claim.capacity = min(claim.capacity, whole)
    member.claims.forget_batch()
    member.verify()


def _check_branch(
    claim: Claim, context: RequestContext, new: RequestContext, shared: int
) -> None:
    """Verifies that a request can branch off from another one.

    Raises:
        NotOfferedError: If it has images.
        RequestStateError: If it begins otherwise, or is no new request.
    """
    check_text(new)
    check_identity(claim, new)
    old, tokens = context.tokens, new.tokens
    most = min(old.processed_length, len(tokens) - 1)
    if not 0 <= shared <= most:
        raise RequestStateError(
            f"wanted to share from 0 to {most} tokens, of "
            f"{old.processed_length} processed ones and with one of "
            f"{len(tokens)} left to compute, got {shared}"
        )
    if tokens.processed_length:
        raise RequestStateError(
            f"wanted a request that nothing is computed for, "
            f"{new.request_id!r} has {tokens.processed_length} processed tokens"
        )
    if not np.array_equal(old.all[:shared], tokens.all[:shared]):
        raise RequestStateError(
            f"wanted request {new.request_id!r} to begin with the {shared} "
            f"tokens that it shares, got others"
        )
