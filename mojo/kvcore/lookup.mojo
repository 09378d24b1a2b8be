"""Looks prefixes up and counts pages; changes nothing that can be seen."""

from std.math import ceildiv

from .core import Core
from .index import NO_PAGE
from .page import NO_LINK, link_to, linked
from .plan import NO_PARTIAL, Plan
from .rows import Row
from .status import BEHIND_COMMITTED, OK, SHARED_WINDOW, UNKNOWN_SEQUENCE
from .tokens import Tokens


def plan_row(
    mut core: Core,
    row: Row,
    *,
    num_steps: Int,
    min_partial: Int,
    max_onload: Int,
) -> Int:
    """Appends what a row will get to the plans of the call.

    Args:
        core: The core.
        row: The row.
        num_steps: How often the model runs; 0 to take the prefix alone.
        min_partial: The fewest tokens of a partial hit; 0 for none.
        max_onload: Host pages that may be loaded; -1 for any number.

    Returns:
        A status.
    """
    if not core.is_claimed(row.seq):
        return core.fail(UNKNOWN_SEQUENCE, row.seq)
    ref sequence = core.sequences[unsafe_offset=row.seq]
    var committed = Int(sequence.num_committed)
    var held = Int(sequence.num_pages)
    var begin = committed * core.page_size
    if row.processed < begin:
        return core.fail(BEHIND_COMMITTED, begin, row.processed)
    var first_hit = core.hits.length
    var partial = NO_PARTIAL
    var partial_length = 0
    if core.is_caching and row.processed == begin:
        var parent = _walk(core, row, committed, max_onload)
        if min_partial > 0 and num_steps > 0:
            var at = begin + (core.hits.length - first_hit) * core.page_size
            partial = _best_child(core, parent, row.tokens, at)
            if partial != NO_PARTIAL:
                partial_length = _common(core, partial, row.tokens, at)
                if partial_length < min_partial:
                    partial = NO_PARTIAL
                    partial_length = 0
    var num_hits = core.hits.length - first_hit
    var own = ceildiv(row.processed, core.page_size) + num_hits
    for column in range(own, held):
        if is_shared(core, sequence.page(column)):
            return core.fail(SHARED_WINDOW, column)
    var plan = Plan(
        seq=row.seq,
        committed=committed,
        held=held,
        first_hit=first_hit,
        num_hits=num_hits,
        partial=partial,
        partial_length=partial_length,
        copied=-1,
        wanted=0,
        wanted_whole=0,
    )
    if num_steps > 0:
        var hit = num_hits * core.page_size
        plan.copied = _begun_and_shared(core, row, held)
        plan.wanted_whole = _pages_wanted(core, row, hit, num_steps)
        plan.wanted = _pages_wanted(core, row, hit + partial_length, num_steps)
    core.plans.push(plan)
    return OK


def is_shared(core: Core, page: Int) -> Bool:
    """Returns whether somebody else may read a held page.

    Args:
        core: The core.
        page: The page.

    Returns:
        Whether another row or the index has it.
    """
    ref entry = core.pages[unsafe_offset=page]
    return entry.references() > 1 or entry.is_indexed()


def _walk(mut core: Core, row: Row, committed: Int, max_onload: Int) -> UInt32:
    """Appends the pages that continue a row; returns the last one's link."""
    var parent = core.parent_of(row.seq, committed)
    var first = committed * core.page_size
    var end = row.tokens.length - 1 - core.page_size
    var num_loads = 0
    while first <= end:
        var page = core.index.find(parent, row.tokens, first)
        if page == NO_PAGE:
            break
        if not core.device.holds(page):
            if num_loads == max_onload:
                break
            num_loads += 1
        core.hits.push(UInt32(page))
        parent = link_to(page)
        first += core.page_size
    return parent


def _best_child(core: Core, parent: UInt32, tokens: Tokens, first: Int) -> Int:
    """Returns the device page whose beginning is the longest match."""
    var best = NO_PARTIAL
    var longest = 0
    var link = core.index.first_child(parent)
    while link != NO_LINK:
        var page = linked(link)
        if core.device.holds(page):
            var length = _common(core, page, tokens, first)
            if length > longest or (length == longest > 0 and page < best):
                best = page
                longest = length
        link = core.pages[unsafe_offset=page].elder
    return best


def _common(core: Core, page: Int, tokens: Tokens, first: Int) -> Int:
    var most = min(tokens.length - 1 - first, core.page_size - 1)
    return tokens.common(first, core.index.tokens_of(page), max(most, 0))


def _pages_wanted(core: Core, row: Row, hit: Int, num_steps: Int) -> Int:
    """Returns the pages up to the end of the window, once moved by a hit."""
    var start = row.processed + hit
    var end = row.processed + row.active
    if start >= end:
        end = min(start + row.active, row.tokens.length)
    return ceildiv(end + num_steps - 1, core.page_size)


def _begun_and_shared(core: Core, row: Row, held: Int) -> Int:
    """Returns the begun page of a row if others may read it, or -1."""
    var column = row.processed // core.page_size
    if row.processed % core.page_size == 0 or column >= held:
        return -1
    var page = core.sequences[unsafe_offset=row.seq].page(column)
    return page if is_shared(core, page) else -1
