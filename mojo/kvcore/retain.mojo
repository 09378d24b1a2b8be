"""Keeps some pages longer than others."""

from .core import Core
from .page import DEFAULT_PRIORITY, linked


def apply_retention(mut core: Core, seq: Int, column: Int):
    """Gives a sequence's priority to a page of its and to all before it.

    A page is worth what follows it: priorities and their ends never fall
    along a prefix towards its head.

    Args:
        core: The core.
        seq: The sequence.
        column: The place of the page in its row; -1 for none.
    """
    if column < 0:
        return
    var priority = priority_of(core, seq)
    var expires: Float64 = 0
    if priority > DEFAULT_PRIORITY:
        expires = core.sequences[unsafe_offset=seq].expires
    var at = core.sequences[unsafe_offset=seq].page(column)
    for depth in reversed(range(column + 1)):
        ref entry = core.pages[unsafe_offset=at]
        var is_lower = entry.priority() < priority
        var is_shorter = entry.expires < expires
        if not (is_lower or is_shorter):
            return
        if is_lower:
            entry.set_priority(priority)
        if is_shorter:
            core.set_expires(at, expires, depth=depth)
        at = linked(entry.parent)


def priority_of(core: Core, seq: Int) -> Int:
    """Returns the priority that a sequence's pages get now.

    Args:
        core: The core.
        seq: The sequence.

    Returns:
        Its priority, or the default where its time is over.
    """
    ref sequence = core.sequences[unsafe_offset=seq]
    var expires = sequence.expires
    if expires > 0 and expires <= core.deadlines.clock:
        return DEFAULT_PRIORITY
    return Int(sequence.priority)


def set_retention(mut core: Core, seq: Int, *, priority: Int, expires: Float64):
    """Sets the priority of what a sequence commits, and has committed.

    Args:
        core: The core.
        seq: A claimed sequence.
        priority: From 0 to 100.
        expires: When it ends; 0 where it is no more than the default.
    """
    ref sequence = core.sequences[unsafe_offset=seq]
    sequence.priority = UInt8(priority)
    sequence.expires = expires
    apply_retention(core, seq, Int(sequence.num_committed) - 1)


def tick(mut core: Core, now: Float64):
    """Sets the clock; priorities whose time is over fall to the default.

    Args:
        core: The core.
        now: The time; an earlier one than before is ignored.
    """
    if now <= core.deadlines.clock:
        return
    core.deadlines.clock = now
    while core.deadlines.is_due():
        var due = core.deadlines.pop()
        ref entry = core.pages[unsafe_offset=due.page]
        if entry.expires == due.expires and Int(entry.depth) == due.depth:
            _fall_back(core, due.page)


def _fall_back(mut core: Core, page: Int):
    ref entry = core.pages[unsafe_offset=page]
    entry.expires = 0
    if not entry.is_cached():
        entry.set_priority(DEFAULT_PRIORITY)
        return
    var is_on_device = core.device.holds(page)
    if is_on_device:
        core.device.remove_cached(page)
    else:
        core.host.remove_cached(page)
    entry.set_priority(DEFAULT_PRIORITY)
    if is_on_device:
        core.device.add_cached(page)
    else:
        core.host.add_cached(page)
