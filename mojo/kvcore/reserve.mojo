"""Takes prefixes and pages for the next steps of a batch, all or none."""

from std.memory import unsafe_memcpy

from .core import COPY, ONLOAD, Core, Move
from .lookup import plan_row
from .page import NO_LINK, link_to, linked
from .plan import NO_PARTIAL, Plan
from .retain import apply_retention
from .rows import Rows
from .status import INSUFFICIENT_PAGES, OK


def reserve(mut core: Core, rows: Rows) -> Int:
    """Takes what the rows want, or changes nothing.

    Args:
        core: The core.
        rows: The rows; gets the tokens that each found.

    Returns:
        A status.
    """
    var status = _prepare(core, rows)
    if status != OK:
        return status
    for index in range(len(rows)):
        ref plan = core.plans.values[unsafe_offset=index]
        rows.set_hit(
            index, plan.num_hits * core.page_size + plan.partial_length
        )
    _carry_out(core)
    core.count()
    return OK


def check_reserve(mut core: Core, rows: Rows) -> Int:
    """Answers what `reserve` would; changes nothing.

    Args:
        core: The core.
        rows: The rows.

    Returns:
        A status.
    """
    var status = _prepare(core, rows)
    if status == OK:
        _drop_partials(core, core.num_hits_removed)
        _let_go(core)
    return status


def _prepare(mut core: Core, rows: Rows) -> Int:
    """Makes the plans and retains what they found."""
    core.plans.length = 0
    core.hits.length = 0
    core.moves.length = 0
    for index in range(len(rows)):
        var status = plan_row(
            core,
            rows.row(index),
            num_steps=rows.num_steps(),
            min_partial=rows.min_partial(),
            max_onload=rows.max_onload(),
        )
        if status != OK:
            return status
    return _hold_hits(core)


def _hold_hits(mut core: Core) -> Int:
    """Retains what was found, if the pages for the rest are there."""
    core.removed.length = 0
    var num_loads = 0
    for index in range(core.hits.length):
        num_loads += _hold(core, Int(core.hits[index]))
    core.num_hits_removed = core.removed.length
    var has_partial = False
    for index in range(core.plans.length):
        var partial = core.plans[index].partial
        if partial != NO_PARTIAL:
            _ = _hold(core, partial)
            has_partial = True
    var wanted = _wanted(core) + num_loads
    var free = core.device.num_free() + _num_freed(core)
    if wanted > free and has_partial:
        _drop_partials(core, core.num_hits_removed)
        wanted = _wanted(core) + num_loads
        free = core.device.num_free() + _num_freed(core)
    if wanted <= free:
        return OK
    for index in range(core.hits.length):
        core.pages[unsafe_offset=Int(core.hits[index])].add_references(-1)
    _restore(core, 0)
    return core.fail(INSUFFICIENT_PAGES, wanted, free)


def _hold(mut core: Core, page: Int) -> Int:
    """Retains a page; returns 1 if it is one of the host's, for once."""
    if not core.retain(page):
        return 0
    core.removed.push(UInt32(page))
    return 0 if core.device.holds(page) else 1


def _let_go(mut core: Core):
    for index in range(core.hits.length):
        core.pages[unsafe_offset=Int(core.hits[index])].add_references(-1)
    _restore(core, 0)


def _drop_partials(mut core: Core, num_removed: Int):
    for index in range(core.plans.length):
        ref plan = core.plans.values[unsafe_offset=index]
        if plan.partial != NO_PARTIAL:
            core.pages[unsafe_offset=plan.partial].add_references(-1)
            plan.drop_partial()
    _restore(core, num_removed)


def _restore(mut core: Core, num_kept: Int):
    """Puts pages back to where they stood in their lists."""
    while core.removed.length > num_kept:
        var page = Int(core.removed.pop())
        if core.device.holds(page):
            core.device.restore_cached(page)
        else:
            core.host.restore_cached(page)


def _wanted(core: Core) -> Int:
    var wanted = 0
    for index in range(core.plans.length):
        var plan = core.plans[index]
        wanted += plan.num_new() + Int(plan.copied >= 0)
    return wanted


def _num_freed(core: Core) -> Int:
    """Returns how many own pages become free when hits take their place.

    They are those that nobody else holds, now that all hits are retained.
    """
    var num_freed = 0
    for index in range(core.plans.length):
        var plan = core.plans[index]
        ref sequence = core.sequences[unsafe_offset=plan.seq]
        for place in range(plan.num_replaced()):
            var page = sequence.page(plan.committed + place)
            if core.pages[unsafe_offset=page].references() == 1:
                num_freed += 1
    return num_freed


def _carry_out(mut core: Core):
    """Carries the plans out; nothing in here can fail."""
    core.removed.length = 0
    for index in range(core.plans.length):
        _take_hits(core, core.plans[index])
    if core.host.size > 0:
        for index in range(core.plans.length):
            _load_hits(core, core.plans[index])
        _forget_loads(core)
    for index in range(core.plans.length):
        _take_pages(core, core.plans[index])
    for index in range(core.plans.length):
        _copy_partial(core, core.plans[index])
    for index in range(core.plans.length):
        var plan = core.plans[index]
        if plan.num_hits > 0:
            apply_retention(core, plan.seq, plan.committed + plan.num_hits - 1)
    for index in range(core.removed.length):
        core.drop_reference(Int(core.removed[index]))


def _take_hits(mut core: Core, plan: Plan):
    """Puts retained hits into a row, in place of what is there."""
    if plan.num_hits == 0:
        return
    ref sequence = core.sequences[unsafe_offset=plan.seq]
    var end = plan.committed + plan.num_replaced()
    for column in reversed(range(plan.committed, end)):
        core.drop_reference(sequence.page(column))
    var last = plan.committed + plan.num_hits
    sequence.make_room(last)
    for column in range(plan.committed, last):
        var hit = core.hits[plan.first_hit + column - plan.committed]
        sequence.set_page(column, Int(hit))
    sequence.num_pages = max(sequence.num_pages, UInt32(last))
    sequence.num_committed = UInt32(last)


def _load_hits(mut core: Core, plan: Plan):
    """Gives each host page of a row a page of the device."""
    for column in range(plan.committed, plan.committed + plan.num_hits):
        ref sequence = core.sequences[unsafe_offset=plan.seq]
        var source = sequence.page(column)
        if core.device.holds(source):
            continue
        var place = source - core.host.first
        if core.loaded[unsafe_offset=place] == NO_LINK:
            core.loaded[unsafe_offset=place] = link_to(_load(core, source))
        var target = linked(core.loaded[unsafe_offset=place])
        core.sequences[unsafe_offset=plan.seq].set_page(column, target)


def _load(mut core: Core, source: Int) -> Int:
    """Moves an entry with all its references to a page of the device."""
    var target = core.allocate()
    var references = core.pages[unsafe_offset=source].references()
    core.move_entry(source, target)
    core.pages[unsafe_offset=target].add_references(references - 1)
    core.pages[unsafe_offset=source].add_references(-references)
    core.host.add_blank(source)
    core.moves.push(Move(ONLOAD, source=source, target=target))
    core.counters[unsafe_offset=0].num_onloaded += 1
    return target


def _forget_loads(mut core: Core):
    for index in range(core.moves.length):
        var move = core.moves[index]
        if Int(move.kind) == ONLOAD:
            var place = Int(move.source) - core.host.first
            core.loaded[unsafe_offset=place] = NO_LINK


def _take_pages(mut core: Core, plan: Plan):
    """Makes a row's begun page its own, and appends new ones."""
    if plan.partial != NO_PARTIAL:
        core.removed.push(UInt32(plan.partial))
    if plan.copied >= 0:
        _replace_begun(core, plan)
    for _ in range(plan.num_new()):
        var page = core.allocate()
        core.sequences[unsafe_offset=plan.seq].append(page)


def _replace_begun(mut core: Core, plan: Plan):
    var own = core.allocate()
    ref sequence = core.sequences[unsafe_offset=plan.seq]
    var column = Int(sequence.num_committed)
    while sequence.page(column) != plan.copied:
        column += 1
    sequence.set_page(column, own)
    core.removed.push(UInt32(plan.copied))
    _copy(core, plan.copied, own)


def _copy_partial(mut core: Core, plan: Plan):
    if plan.partial == NO_PARTIAL:
        return
    var column = plan.committed + plan.num_hits
    var own = core.sequences[unsafe_offset=plan.seq].page(column)
    _copy(core, plan.partial, own)


def _copy(mut core: Core, source: Int, target: Int):
    core.moves.push(Move(COPY, source=source, target=target))
    core.counters[unsafe_offset=0].num_copied += 1
    unsafe_memcpy(
        dest=core.index.tokens_of(target),
        src=core.index.tokens_of(source),
        count=core.page_size,
    )
