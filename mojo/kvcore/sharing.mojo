"""Sequences that share pages on purpose, and prefixes that are given up."""

from .core import Core
from .index import NO_PAGE
from .memory import Stack
from .page import NO_LINK, NUM_PRIORITIES, linked
from .status import (
    BEYOND_PAGES,
    INSUFFICIENT_PAGES,
    NO_SEQUENCE_LEFT,
    OK,
    UNKNOWN_SEQUENCE,
)
from .victims import VICTIMS_AHEAD, fetch_victims


def fork(mut core: Core, seq: Int, processed: Int) -> Int:
    """Takes a sequence that shares the first pages of another.

    Args:
        core: The core.
        seq: The sequence to share with.
        processed: The tokens to share.

    Returns:
        A status; the detail of `OK` is the new sequence.
    """
    if not core.is_claimed(seq):
        return core.fail(UNKNOWN_SEQUENCE, seq)
    var size = core.page_size
    var held = Int(core.sequences[unsafe_offset=seq].num_pages)
    if not 0 <= processed <= held * size:
        return core.fail(BEYOND_PAGES, held * size, processed)
    var source = core.sequences[unsafe_offset=seq]
    var twin = core.claim(Int(source.namespace))
    if twin < 0:
        return core.fail(NO_SEQUENCE_LEFT, 1, 0)
    ref sequence = core.sequences[unsafe_offset=twin]
    sequence.priority = source.priority
    sequence.expires = source.expires
    for column in range((processed + size - 1) // size):
        var page = source.page(column)
        core.pages[unsafe_offset=page].add_references(1)
        core.sequences[unsafe_offset=twin].append(page)
    core.sequences[unsafe_offset=twin].num_committed = min(
        source.num_committed, UInt32(processed // size)
    )
    return core.fail(OK, twin)


def truncate(mut core: Core, seq: Int, length: Int) -> Int:
    """Lets go of a sequence's pages behind its first tokens.

    Args:
        core: The core.
        seq: The sequence.
        length: The tokens that stay.

    Returns:
        A status.
    """
    if not core.is_claimed(seq):
        return core.fail(UNKNOWN_SEQUENCE, seq)
    if length < 0:
        return core.fail(BEYOND_PAGES, 0, length)
    var size = core.page_size
    core.cut(seq, (length + size - 1) // size)
    ref sequence = core.sequences[unsafe_offset=seq]
    sequence.num_committed = min(sequence.num_committed, UInt32(length // size))
    core.count()
    return OK


def forget_cached(mut core: Core):
    """Makes what no sequence holds unfindable.

    Args:
        core: The core.
    """
    while True:
        var page = _pop_cached(core, True)
        if page == NO_PAGE:
            break
        core.forget(page)
        core.device.add_blank(page)
    while True:
        var page = _pop_cached(core, False)
        if page == NO_PAGE:
            break
        core.forget(page)
        core.host.add_blank(page)
    core.count()


def drop(mut core: Core, seq: Int, column: Int) -> Int:
    """Makes a sequence's pages, and all that follows them, unfindable.

    Args:
        core: The core.
        seq: The sequence.
        column: The first of its pages to give up.

    Returns:
        A status.
    """
    if not core.is_claimed(seq):
        return core.fail(UNKNOWN_SEQUENCE, seq)
    if column < 0:
        return core.fail(BEYOND_PAGES, 0, column)
    ref sequence = core.sequences[unsafe_offset=seq]
    if column >= Int(sequence.num_pages):
        return OK
    forget_page(core, sequence.page(column))
    return OK


def forget_page(mut core: Core, page: Int):
    """Makes a page, and all that follows it, unfindable.

    Args:
        core: The core.
        page: A page of the device or of the host, findable or not.
    """
    if not core.pages[unsafe_offset=page].is_indexed():
        return
    var marked = _family(core, page)
    for index in reversed(range(marked.length)):
        _give_up(core, Int(marked[index]))
    _blank(core, marked)
    _uncommit(core)
    core.count()


def evict(mut core: Core, num_pages: Int) -> Int:
    """Makes the cached pages of the device that go first blank.

    What follows them on the host goes with them.

    Args:
        core: The core; the pages are left in its `hits`, in order.
        num_pages: How many, from 0 on.

    Returns:
        A status.
    """
    var num_cached = core.device.num_cached
    if num_pages > num_cached:
        return core.fail(INSUFFICIENT_PAGES, num_pages, num_cached)
    core.hits.length = 0
    for index in range(num_pages):
        var page = core.device.victim()
        if index % VICTIMS_AHEAD == 0:
            fetch_victims(core, page, min(VICTIMS_AHEAD, num_pages - index))
        core.device.remove_cached(page)
        if core.pages[unsafe_offset=page].child != NO_LINK:
            _lose_followers(core, page)
        core.lose(page)
        core.device.add_blank(page)
        core.hits.push(UInt32(page))
    core.count()
    return OK


def _lose_followers(mut core: Core, page: Int):
    """Loses all that follows a page, which is cached pages of the host."""
    var family = _family(core, page)
    for index in reversed(range(1, family.length)):
        core.host.remove_cached(Int(family[index]))
        core.lose(Int(family[index]))
    _sort(family)
    for index in range(family.length):
        if Int(family[index]) != page:
            core.host.add_blank(Int(family[index]))


def _pop_cached(mut core: Core, is_on_device: Bool) -> Int:
    if is_on_device:
        var page = core.device.victim()
        if page >= 0:
            core.device.remove_cached(page)
        return page
    var page = core.host.victim()
    if page >= 0:
        core.host.remove_cached(page)
    return page


def _family(core: Core, page: Int) -> Stack[UInt32]:
    """Returns a page and all that follow it, each behind its parent."""
    var family = Stack[UInt32]()
    family.push(UInt32(page))
    var next = 0
    while next < family.length:
        var link = core.pages[unsafe_offset=Int(family[next])].child
        while link != NO_LINK:
            family.push(UInt32(linked(link)))
            link = core.pages[unsafe_offset=linked(link)].elder
        next += 1
    return family^


def _give_up(mut core: Core, page: Int):
    """Removes a page without children from its list and the index."""
    if core.pages[unsafe_offset=page].is_cached():
        if core.device.holds(page):
            core.device.remove_cached(page)
        else:
            core.host.remove_cached(page)
    core.forget(page)


def _blank(mut core: Core, family: Stack[UInt32]):
    """Makes those that nobody holds blank, in ascending order."""
    _sort(family)
    for index in range(family.length):
        var page = Int(family[index])
        if core.pages[unsafe_offset=page].references() > 0:
            continue
        if core.device.holds(page):
            core.device.add_blank(page)
        else:
            core.host.add_blank(page)


def _sort(values: Stack[UInt32]):
    """Sorts in place, by a heap."""
    for start in reversed(range(values.length // 2)):
        _sink(values, start, values.length)
    for end in reversed(range(1, values.length)):
        _swap(values, 0, end)
        _sink(values, 0, end)


def _sink(values: Stack[UInt32], start: Int, end: Int):
    var place = start
    while 2 * place + 1 < end:
        var below = 2 * place + 1
        if below + 1 < end and values[below] < values[below + 1]:
            below += 1
        if values[place] >= values[below]:
            return
        _swap(values, place, below)
        place = below


def _swap(values: Stack[UInt32], first: Int, second: Int):
    var kept = values[first]
    values.values[unsafe_offset=first] = values[second]
    values.values[unsafe_offset=second] = kept


def _uncommit(mut core: Core):
    """Shortens what sequences have committed to what is still findable."""
    for seq in range(core.num_sequences):
        if not core.is_claimed(seq):
            continue
        ref sequence = core.sequences[unsafe_offset=seq]
        for column in range(Int(sequence.num_committed)):
            var page = sequence.page(column)
            if not core.pages[unsafe_offset=page].is_indexed():
                sequence.num_committed = UInt32(column)
                break
