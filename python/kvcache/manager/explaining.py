"""Why each page of a request would be a hit now, or not."""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from kvcache.core.digest import namespace
from kvcache.core.interface import Probe
from kvcache.manager.replica import Replica
from kvcache.request import RequestContext, TokenIds


class PageOutcome(Enum):
    """What the cache would say of one page of a request."""

    HIT = "hit"
    """It is cached as a whole."""
    PARTIAL = "partial hit"
    """A cached page begins like it, and that beginning would be copied."""
    LAST_TOKEN = "holds the last token"  # noqa: S105  (no password)
    """It is cached, but the request's last token is always computed."""
    TAIL = "not a whole page"
    """The request ends inside it, and only whole pages are cached."""
    NOT_COMMITTED = "not committed yet"
    """Another request holds it, computed or reserved, and did not commit it."""
    EVICTED = "evicted"
    """It was cached until its page was given to others."""
    OTHER_SALT = "under another salt or model"
    """It is cached, but not for this request."""
    NEVER_SEEN = "never seen"
    """Nothing is known of it."""
    BEHIND_A_MISS = "behind a miss"
    """A page before it misses, and nothing else is known of it."""
    CACHING_OFF = "caching is off"
    """The manager shares no pages."""


@dataclass(frozen=True, slots=True)
class PageReport:
    """Why one page of a request would be a hit, or not."""

    column: int
    """Its place in the request, from 0."""
    outcome: PageOutcome
    """What it comes to."""
    num_hit: int = 0
    """Tokens of it that need not be computed."""
    evicted_at: float | None = None
    """When it was evicted, in seconds on the manager's clock."""


def explain(member: Replica, context: RequestContext) -> list[PageReport]:
    """Says of each page what a reservation from the beginning would find.

    Args:
        member: The replica to look at.
        context: The request, claimed or not; all its tokens count.
    """
    tokens, size = context.tokens.all, member.core.page_size
    columns = range(-(-len(tokens) // size))
    if not member.core.enable_prefix_caching:
        return [PageReport(c, PageOutcome.CACHING_OFF) for c in columns]
    root = namespace(
        cache_salt=context.cache_salt, model_name=context.model_name
    )
    probe = member.core.probe(root, tokens)
    limit = (len(tokens) - 1) // size
    num_hits = min(len(probe.pages), limit)
    hits = [PageReport(c, PageOutcome.HIT, size) for c in range(num_hits)]
    misses = _misses(member, context, root, probe)[num_hits:]
    part = _partial(member, len(tokens), probe)
    if part:
        column, outcome = num_hits, misses[0].outcome
        if outcome is not PageOutcome.LAST_TOKEN:
            outcome = PageOutcome.PARTIAL
        misses[0] = PageReport(column, outcome, part)
    return hits + misses


def _partial(member: Replica, length: int, probe: Probe) -> int:
    """Returns the tokens of the page after the hits that would be copied."""
    size, core = member.core.page_size, member.core
    limit = (length - 1) // size
    if len(probe.pages) > limit:  # The page with the last token.
        is_here = bool(probe.pages[limit] < core.num_pages)
        part = size - 1 if is_here else 0
    else:
        part = min(probe.partial, length - len(probe.pages) * size - 1)
    least = member.min_partial
    return part if least is not None and part >= least else 0


def _misses(
    member: Replica, context: RequestContext, root: bytes, probe: Probe
) -> list[PageReport]:
    """Says of every page why it would be none, if it is none."""
    core, tokens = member.core, context.tokens.all
    size, num_cached = core.page_size, len(probe.pages)
    times = core.evicted_at(root, tokens)
    held = _num_held(member, context, root)
    elsewhere = max(
        (
            len(core.probe(other, tokens).pages)
            for other in member.claims.namespaces
            if other != root
        ),
        default=0,
    )

    def report(column: int) -> PageReport:
        if (column + 1) * size > len(tokens):
            return PageReport(column, PageOutcome.TAIL)
        if column < num_cached:
            return PageReport(column, PageOutcome.LAST_TOKEN)
        if column < held:
            return PageReport(column, PageOutcome.NOT_COMMITTED)
        if not np.isnan(times[column]):
            when = float(times[column])
            return PageReport(column, PageOutcome.EVICTED, evicted_at=when)
        if column < elsewhere:
            return PageReport(column, PageOutcome.OTHER_SALT)
        is_first = column == num_cached
        return PageReport(
            column,
            PageOutcome.NEVER_SEEN if is_first else PageOutcome.BEHIND_A_MISS,
        )

    return [report(column) for column in range(-(-len(tokens) // size))]


def _num_held(member: Replica, context: RequestContext, root: bytes) -> int:
    """Returns how many whole pages another request holds of this one."""
    tokens = context.tokens.all
    return max(
        (
            _num_common(tokens, claim.context.tokens.all[: claim.capacity])
            // member.core.page_size
            for request_id, claim in member.claims.items()
            if claim.context is not None
            and claim.namespace == root
            and request_id != context.request_id
        ),
        default=0,
    )


def _num_common(left: TokenIds, right: TokenIds) -> int:
    """Returns how many tokens two sequences begin with alike."""
    most = min(len(left), len(right))
    differs = np.flatnonzero(left[:most] != right[:most])
    return int(differs[0]) if differs.size else most
