"""What sequences will get, worked out before anything changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kvcache.core.books import Books
from kvcache.core.look import Partial, longest_partial
from kvcache.core.values import Batch, window_after_hit
from kvcache.errors import InsufficientPagesError, RequestStateError
from kvcache.request import TokenIds
from kvcache.spec import pages_for


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for each sequence of a batch.

    Raises:
        RequestStateError: If a bound makes no sense.
    """

    num_steps: int | None = None
    """Steps to take pages for; None for no page beyond the prefixes."""
    min_partial: int | None = None
    """Tokens of a page from which on a part of it is copied."""
    max_onload: int | None = None
    """Pages to move from the host for a sequence at most."""

    def __post_init__(self) -> None:
        """Verifies the bounds."""
        if self.min_partial is not None and self.min_partial < 1:
            raise RequestStateError(
                f"wanted at least 1 token of a page, got {self.min_partial}"
            )
        if self.max_onload is not None and self.max_onload < 0:
            raise RequestStateError(
                f"wanted at least 0 pages to load, got {self.max_onload}"
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """What one sequence will get, while nothing has changed yet."""

    seq: int
    committed: int
    held: int
    hits: list[int]
    """Cached pages, of the device and then of the host, that follow the
    committed ones."""
    partial: Partial | None
    """What is copied into the page after the hits."""
    shared: int | None
    """The column of a page to be copied before it is written."""
    wanted: int
    """Pages in total, cached ones included."""

    @property
    def num_replaced(self) -> int:
        """Own pages whose place the cached ones take."""
        return min(self.held - self.committed, len(self.hits))

    @property
    def end_replaced(self) -> int:
        """The first column that keeps its page."""
        return self.committed + self.num_replaced

    @property
    def num_new(self) -> int:
        """Pages to take from the pool and append."""
        covered = max(self.held, self.committed + len(self.hits))
        return max(0, self.wanted - covered)


def plan_batch(books: Books, batch: Batch, ask: Ask) -> list[Plan]:
    """Looks prefixes up and counts pages; changes nothing.

    Parts of pages are given up where there would not be enough pages.

    Raises:
        InsufficientPagesError: If there are not enough pages.
        RequestStateError: If a sequence cannot go on from where it is said to
            be.
        UnknownRequestError: If a sequence is not claimed.
    """
    plans = _plans(books, batch, ask)
    wanted, free = _need(books, plans)
    if wanted > free and any(plan.partial for plan in plans):
        plans = _plans(books, batch, replace(ask, min_partial=None))
        wanted, free = _need(books, plans)
    if wanted > free:
        raise InsufficientPagesError(wanted=wanted, free=free)
    return plans


@dataclass(frozen=True, slots=True)
class _Row:
    """One sequence of a batch."""

    seq: int
    processed: int
    active: int
    tokens: TokenIds


def _need(books: Books, plans: Sequence[Plan]) -> tuple[int, int]:
    """Returns how many device pages plans want and how many there will be."""
    device = books.tiers.device
    hits = {page for plan in plans for page in plan.hits}
    loads = {page for page in hits if books.tiers.is_host(page)}
    retained = hits - loads
    retained |= {plan.partial.page for plan in plans if plan.partial}
    freed = sum(
        device.ref_count(page) == 1 and page not in retained
        for plan in plans
        for page in books.row(plan.seq, plan.committed, plan.end_replaced)
    )
    copies = sum(plan.shared is not None for plan in plans)
    wanted = sum(plan.num_new for plan in plans) + copies + len(loads)
    taken = sum(device.ref_count(page) == 0 for page in retained)
    return wanted, device.num_free - taken + freed


def _plans(books: Books, batch: Batch, ask: Ask) -> list[Plan]:
    rows = zip(
        batch.seqs.tolist(),
        batch.processed.tolist(),
        batch.active.tolist(),
        batch.tokens,
        strict=True,
    )
    return [_plan(books, _Row(*row), ask) for row in rows]


def _plan(books: Books, row: _Row, ask: Ask) -> Plan:
    hits, partial = _look_up(books, row, ask)
    size = books.page_size
    _check_window(books, row.seq, pages_for(row.processed, size) + len(hits))
    shared, wanted = None, 0
    if ask.num_steps is not None:
        shared = _begun_and_shared(books, row)
        _, end = window_after_hit(
            processed=row.processed,
            active=row.active,
            length=len(row.tokens),
            hit=len(hits) * size + (partial.length if partial else 0),
        )
        wanted = pages_for(end + ask.num_steps - 1, size)
    held = books.seqs.num_held(row.seq)
    committed = int(books.seqs.committed[row.seq])
    return Plan(row.seq, committed, held, hits, partial, shared, wanted)


def _look_up(
    books: Books, row: _Row, ask: Ask
) -> tuple[list[int], Partial | None]:
    """Returns the cached pages after the committed ones, and part of one."""
    size = books.page_size
    books.seqs.namespace(row.seq)
    column = int(books.seqs.committed[row.seq])
    begin = column * size
    if row.processed < begin:
        raise RequestStateError(
            f"wanted at least the {begin} tokens that were committed to be "
            f"processed, got {row.processed}"
        )
    if not books.is_caching or row.processed > begin:
        return [], None
    parent = books.parent(row.seq, column)
    rest = row.tokens[begin:-1]  # The last token's logits are wanted.
    hits = _capped(books, books.index.match(parent, rest), ask.max_onload)
    if ask.min_partial is None:
        return hits, None
    partial = longest_partial(
        books.index.children(hits[-1] if hits else parent),
        rest[len(hits) * size :][: size - 1],
        books.tiers.device.pages,
    )
    is_enough = partial is not None and partial.length >= ask.min_partial
    return hits, partial if is_enough else None


def _capped(books: Books, hits: list[int], most: int | None) -> list[int]:
    """Returns the hits before one host page too many."""
    num_loads = sum(map(books.tiers.is_host, hits))
    if most is None or num_loads <= most:
        return hits
    return hits[: len(hits) - num_loads + most]


def _check_window(books: Books, seq: int, column: int) -> None:
    """Verifies that a sequence's pages from a column on are its own."""
    for page in books.row(seq, column):
        if not books.is_own(page):
            raise RequestStateError(
                f"wanted pages beyond what is processed to be the sequence's "
                f"own, page {page} is shared or findable: truncate first"
            )


def _begun_and_shared(books: Books, row: _Row) -> int | None:
    """Returns the column of a page to be copied before it is written on."""
    column, slot = divmod(row.processed, books.page_size)
    if not slot or column >= books.seqs.num_held(row.seq):
        return None
    is_own = books.is_own(books.page(row.seq, column))
    return None if is_own else column
