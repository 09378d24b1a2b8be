"""Verifies that pools, index, lists and rows tell the same story.

Each takes time proportional to the pool; they are for tests and for runtime
checks, not for serving.
"""

from collections import Counter

from kvcache.core.books import Books
from kvcache.core.entry import Entry
from kvcache.core.values import DEFAULT_PRIORITY


def check_books(books: Books) -> None:
    """Verifies every invariant.

    Raises:
        AssertionError: If one is broken.
    """
    books.tiers.device.check()
    books.tiers.host.check()
    books.index.check()
    books.seqs.check()
    _check_references(books)
    for seq in books.seqs.claimed():
        _check_row(books, seq)
    _check_prefixes_of_rows(books)
    for entry in books.index.entries():
        _check_entry(books, entry)
    _check_order(books)


def _check_references(books: Books) -> None:
    """Verifies that each page has one reference per row that holds it."""
    device, host = books.tiers.device, books.tiers.host
    refs: Counter[int] = Counter()
    for seq in books.seqs.claimed():
        pages = books.row(seq)
        assert len(set(pages)) == len(pages), f"{seq} holds a page twice"
        refs.update(pages)
    for page in device.pages:
        count = device.ref_count(page)
        assert count == refs.pop(page, 0), (
            f"page {page} has {count} references, not one per row"
        )
    assert not refs, f"rows hold pages {sorted(refs)} of no pool"
    held = [page for page in host.pages if host.ref_count(page)]
    assert not held, f"host pages {held} are held outside of a call"
    num_held = sum(device.ref_count(page) > 0 for page in device.pages)
    assert device.num_free + num_held == len(device), (
        f"{device.num_free} free and {num_held} held of {len(device)} pages"
    )
    num_held = sum(page in device.pages for page in _held_entries(books))
    assert num_held + device.num_cached + host.num_cached == len(books.index), (
        f"{len(books.index)} pages are indexed, {num_held} held, "
        f"{device.num_cached} and {host.num_cached} cached"
    )


def _held_entries(books: Books) -> list[int]:
    """Returns the pages that are indexed and held."""
    device = books.tiers.device
    pages = [entry.page for entry in books.index.entries()]
    return [p for p in pages if p in device.pages and device.ref_count(p)]


def _check_row(books: Books, seq: int) -> None:
    """Verifies that a row begins with one chain, the committed part of it.

    A page beyond what was committed may be findable, if it was cut off or
    another sequence committed it; then so is all that comes before it.
    """
    pages, committed = books.row(seq), int(books.seqs.committed[seq])
    is_indexed = [page in books.index for page in pages]
    num_indexed = sum(is_indexed)
    assert all(is_indexed[:num_indexed]), f"row {seq} has a gap: {is_indexed}"
    assert committed <= num_indexed, (
        f"{seq} committed {committed} pages, {num_indexed} are findable"
    )
    before: Entry | bytes = books.seqs.namespace(seq)
    for page in pages[:num_indexed]:
        entry = books.index.entry(page)
        assert entry.parent == before, (
            f"page {page} follows {entry.parent_page} in the index and another "
            f"in sequence {seq}"
        )
        before = entry


def _check_prefixes_of_rows(books: Books) -> None:
    """Verifies that rows which share a page share all pages before it."""
    before: dict[int, tuple[int, int | None]] = {}
    for seq in books.seqs.claimed():
        previous = None
        for column, page in enumerate(books.row(seq)):
            there = before.setdefault(page, (column, previous))
            assert there == (column, previous), (
                f"page {page} follows {there} in one row, "
                f"{(column, previous)} in another"
            )
            previous = page


def _check_entry(books: Books, entry: Entry) -> None:
    """Verifies an entry's retention and tier against its parent's."""
    page, retention = entry.page, (entry.priority, entry.expires)
    if entry.priority > DEFAULT_PRIORITY:
        assert entry.expires > books.clock.now, f"page {page} has expired"
    else:
        assert entry.expires == 0.0, f"page {page} has nothing that expires"
    before = entry.parent
    if isinstance(before, bytes):
        return
    assert entry.priority <= before.priority, (
        f"page {page} is kept longer than {before.page} before it"
    )
    assert entry.expires <= before.expires, (
        f"page {page} with {retention} expires after {before.page}"
    )
    is_held = books.tiers.pool_of(page).ref_count(page) > 0
    pool = books.tiers.pool_of(before.page)
    assert not is_held or pool.ref_count(before.page), (
        f"page {page} is held, {before.page} before it is free"
    )
    assert books.tiers.is_host(page) or not books.tiers.is_host(before.page), (
        f"device page {page} follows host page {before.page}"
    )


def _check_order(books: Books) -> None:
    """Verifies that in each list what follows a page stands before it."""
    for pool in (books.tiers.device, books.tiers.host):
        lists = pool.cached()
        place = {page: at for at, page in enumerate(lists)}
        for page, priority in lists.items():
            before = books.index.entry(page).parent
            while not isinstance(before, bytes):
                if lists.get(before.page) == priority:
                    assert place[page] < place[before.page], (
                        f"page {before.page} goes before page {page}, which "
                        f"follows it"
                    )
                before = before.parent
