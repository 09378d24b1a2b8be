"""Makes full pages findable, and merges those that hold the same."""

from .core import Core
from .digest import Digest
from .index import NO_PAGE
from .page import DEFAULT_PRIORITY
from .retain import apply_retention, priority_of
from .rows import Row, Rows
from .status import (
    BEYOND_PAGES,
    BEYOND_TOKENS,
    OK,
    OTHER_CONTENT,
    TOKEN_OUT_OF_RANGE,
    UNKNOWN_SEQUENCE,
)


def commit(mut core: Core, rows: Rows) -> Int:
    """Makes the full pages of processed tokens findable.

    Args:
        core: The core.
        rows: The rows.

    Returns:
        A status; unless it is `OK`, nothing has changed.
    """
    if not core.is_caching:
        return OK
    for index in range(len(rows)):
        var status = _check_row(core, rows, index)
        if status != OK:
            return status
    for index in range(len(rows)):
        var row = rows.row(index)
        ref sequence = core.sequences[unsafe_offset=row.seq]
        var first = Int(sequence.num_committed)
        for column in range(first, row.processed // core.page_size):
            if not _commit_page(core, row, column):
                break
    core.count()
    return OK


def commit_kept(mut core: Core, seq: Int, column: Int) -> Bool:
    """Makes a full page findable whose token ids are in place.

    Args:
        core: The core.
        seq: The sequence.
        column: The page's place, right behind what is committed.

    Returns:
        Whether it is; a page that other rows hold stays as it is where
        another one holds the same.
    """
    digest_ahead(core, seq, first=column, last=column)
    return commit_digested(core, seq, column)


def digest_ahead(mut core: Core, seq: Int, *, first: Int, last: Int):
    """Computes the digests of full pages whose token ids are in place.

    Where they will be looked up is brought near meanwhile.

    Args:
        core: The core.
        seq: The sequence.
        first: The first page's place, right behind what is committed.
        last: The last one's.
    """
    var digest = core.index.digest_of(core.parent_of(seq, first))
    for column in range(first, last + 1):
        var own = core.sequences[unsafe_offset=seq].page(column)
        digest = core.index.digest(digest, core.index.tokens_of(own))
        core.pages[unsafe_offset=own].digest = digest
        core.index.fetch_bucket(digest)


def commit_digested(mut core: Core, seq: Int, column: Int) -> Bool:
    """Makes a full page findable whose digest was computed.

    Args:
        core: The core.
        seq: The sequence.
        column: The page's place, right behind what is committed.

    Returns:
        Whether it is; see `commit_kept`.
    """
    var parent = core.parent_of(seq, column)
    var own = core.sequences[unsafe_offset=seq].page(column)
    var digest = core.pages[unsafe_offset=own].digest
    var found = core.index.find_kept(parent, digest, core.index.tokens_of(own))
    if found == NO_PAGE:
        _index_new(core, seq, column, digest)
    elif not _merge(core, seq, column, found):
        return False
    core.sequences[unsafe_offset=seq].num_committed = UInt32(column + 1)
    return True


def _index_new(mut core: Core, seq: Int, column: Int, digest: Digest):
    var own = core.sequences[unsafe_offset=seq].page(column)
    var priority = priority_of(core, seq)
    core.index.insert(own, core.parent_of(seq, column), digest, priority)
    if priority > DEFAULT_PRIORITY:
        var expires = core.sequences[unsafe_offset=seq].expires
        core.set_expires(own, expires, depth=column)
    apply_retention(core, seq, column - 1)


def _merge(mut core: Core, seq: Int, column: Int, found: Int) -> Bool:
    """Makes one page of a row's own and one that holds the same."""
    var own = core.sequences[unsafe_offset=seq].page(column)
    if core.host.holds(found):
        core.host.remove_cached(found)
        core.move_entry(found, own)
        core.host.add_blank(found)
    elif core.pages[unsafe_offset=own].references() > 1:
        return False
    else:
        _ = core.retain(found)
        core.sequences[unsafe_offset=seq].set_page(column, found)
        core.drop_reference(own)
    apply_retention(core, seq, column)
    return True


def _commit_page(mut core: Core, row: Row, column: Int) -> Bool:
    """Returns whether the page is findable now as what the row says."""
    var own = core.sequences[unsafe_offset=row.seq].page(column)
    if not core.pages[unsafe_offset=own].is_indexed():
        var first = column * core.page_size
        row.tokens.copy_to(core.index.tokens_of(own), first, core.page_size)
        return commit_kept(core, row.seq, column)
    apply_retention(core, row.seq, column)
    core.sequences[unsafe_offset=row.seq].num_committed = UInt32(column + 1)
    return True


def _check_row(mut core: Core, rows: Rows, index: Int) -> Int:
    var row = rows.row(index)
    if not core.is_claimed(row.seq):
        return core.fail(UNKNOWN_SEQUENCE, row.seq)
    ref sequence = core.sequences[unsafe_offset=row.seq]
    var size = core.page_size
    var num_full = row.processed // size
    var held = Int(sequence.num_pages)
    if num_full > held:
        return core.fail(BEYOND_PAGES, held * size, row.processed)
    var committed = Int(sequence.num_committed)
    if num_full <= committed:
        return OK
    if row.processed > row.tokens.length:
        return core.fail(BEYOND_TOKENS, row.tokens.length, row.processed)
    if not row.tokens.fit(committed * size, num_full * size):
        return core.fail(TOKEN_OUT_OF_RANGE)
    for column in range(committed, num_full):
        if not _agrees(core, rows, index, column):
            return core.fail(OTHER_CONTENT, column)
    return OK


def _agrees(core: Core, rows: Rows, index: Int, column: Int) -> Bool:
    """Returns whether a row's tokens are what others have in its page."""
    var row = rows.row(index)
    var first = column * core.page_size
    var own = core.sequences[unsafe_offset=row.seq].page(column)
    ref entry = core.pages[unsafe_offset=own]
    if entry.is_indexed():
        return row.tokens.equal(
            first, core.index.tokens_of(own), core.page_size
        )
    if entry.references() == 1:
        return True
    for other in range(index):
        var earlier = rows.row(other)
        ref sequence = core.sequences[unsafe_offset=earlier.seq]
        var end = earlier.processed // core.page_size
        if Int(sequence.num_committed) <= column < end:
            if sequence.page(column) == own:
                for place in range(first, first + core.page_size):
                    if earlier.tokens[place] != row.tokens[place]:
                        return False
    return True
