"""Brings near what a run of evictions touches.

An eviction takes its page out of a hash bucket, in which what was committed
long ago comes last: one miss of the processor's cache after another. For many
pages at a time the misses are waited for together.
"""

from .core import Core
from .page import NO_LINK, linked

comptime VICTIMS_AHEAD = 32
"""Pages to bring near together."""

comptime _LINKS = 6
"""Pages of a bucket that are brought near; few buckets have more."""


def fetch_victims(core: Core, page: Int, count: Int):
    """Brings near what the next evictions of one list touch.

    Args:
        core: The core.
        page: The next victim.
        count: How many come behind it at most, itself included.
    """
    for depth in range(_LINKS + 1):
        var victim = page
        for _ in range(count):
            if victim < 0:
                break
            if depth == 0:
                core.fetch_ahead(victim)
            else:
                _fetch_link(core, victim, depth)
            victim = linked(core.pages[unsafe_offset=victim].behind)


def _fetch_link(core: Core, victim: Int, depth: Int):
    """Brings near a page of the victim's bucket, those before it being so."""
    var digest = core.pages[unsafe_offset=victim].digest
    var link = core.index.first_in_bucket(digest)
    for _ in range(1, depth):
        if link == NO_LINK or linked(link) == victim:
            return
        link = core.pages[unsafe_offset=linked(link)].bucket
    core.index.fetch_page(linked(link))
