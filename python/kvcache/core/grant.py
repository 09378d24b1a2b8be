"""Carries plans out; nothing in here can fail."""

from collections.abc import Sequence

import numpy as np

from kvcache.core.books import Books
from kvcache.core.plan import Plan
from kvcache.core.values import Granted


def grant(books: Books, plans: Sequence[Plan]) -> Granted:
    """Gives sequences what was planned, all hits before any new page."""
    for plan in plans:
        books.tiers.retain(plan.hits)
        if plan.partial is not None:
            books.tiers.retain([plan.partial.page])
    for plan in plans:
        _take_hits(books, plan)
    loaded: dict[int, int] = {}
    for plan in plans:
        _load(books, plan, loaded)
    let_go = [_take_pages(books, plan) for plan in plans]
    for plan, pages in zip(plans, let_go, strict=True):
        if plan.partial is not None:
            heir = books.page(plan.seq, plan.committed + len(plan.hits))
            books.tiers.copy(plan.partial.page, heir)
            pages.append(plan.partial.page)
    for plan in plans:
        if plan.hits:
            lift(books, plan.seq)
    for pages in let_go:
        books.tiers.device.release(pages)
    hits = np.fromiter(map(len, (p.hits for p in plans)), np.int64, len(plans))
    partial = [plan.partial.length if plan.partial else 0 for plan in plans]
    hits = hits * books.page_size + np.array(partial, np.int64)
    return Granted(hits, books.tiers.take_moves())


def lift(books: Books, seq: int) -> None:
    """Raises what a sequence has committed to the sequence's retention."""
    column = int(books.seqs.committed[seq])
    if column:
        last = books.index.entry(books.page(seq, column - 1))
        books.clock.lift(last, books.seqs.retention[seq])


def _take_hits(books: Books, plan: Plan) -> None:
    """Puts retained hits into a row, in place of what is there."""
    if not plan.hits:
        return
    table = books.seqs.table
    begin = plan.committed
    replaced = books.row(plan.seq, begin, plan.end_replaced)
    books.tiers.device.release(replaced[::-1])
    table.replace(plan.seq, begin, plan.hits[: len(replaced)])
    table.extend(plan.seq, plan.hits[len(replaced) :])
    books.seqs.committed[plan.seq] += len(plan.hits)


def _load(books: Books, plan: Plan, loaded: dict[int, int]) -> None:
    """Moves hits on the host to the device, unless a plan before did."""
    for column, page in enumerate(plan.hits, plan.committed):
        if not books.tiers.is_host(page):
            continue
        if page not in loaded:
            loaded[page] = books.tiers.onload(page)
        books.seqs.table.replace(plan.seq, column, [loaded[page]])


def _take_pages(books: Books, plan: Plan) -> list[int]:
    """Takes the pages that are to be written; returns one that was copied."""
    device, table = books.tiers.device, books.seqs.table
    let_go = []
    if plan.shared is not None:
        page = books.page(plan.seq, plan.shared)
        (heir,) = device.allocate(1)
        books.tiers.copy(page, heir)
        table.replace(plan.seq, plan.shared, [heir])
        let_go.append(page)
    table.extend(plan.seq, device.allocate(plan.num_new))
    return let_go
