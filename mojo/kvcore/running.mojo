"""A batch that runs: its tables are written in place, step by step."""

from std.math import ceildiv
from std.memory import unsafe_memcpy

from .commit import commit_digested, digest_ahead
from .core import Core
from .memory import Ptr, Stack, release_memory, zeroed
from .reserve import reserve
from .rows import Row, Rows
from .status import (
    INSUFFICIENT_PAGES,
    NO_SEQUENCE_LEFT,
    OK,
    TOKEN_OUT_OF_RANGE,
    TOO_FEW_COLUMNS,
    TOO_MANY_ROWS,
    UNREADABLE,
)
from .tokens import Tokens


struct Running(Movable):
    """Sequences that run together, and what a graph is told of them.

    The token ids of a row are kept in its pages as they become known, so that
    a page that fills up is findable without being told again.
    """

    var seqs: Stack[UInt32]
    """The sequence of each row."""
    var capacity: Int
    """Rows that fit."""
    var columns: Int
    """Columns of the lookup table."""
    var cache_lengths: Ptr[UInt32]
    """Tokens computed before this step, `[capacity]`."""
    var lookup_table: Ptr[UInt32]
    """Pages of each row, `[capacity, columns]`."""
    var max_lengths: Ptr[UInt32]
    """Longest new part and longest whole, `[2]`."""
    var gone: Ptr[Int64]
    """Rows that are to leave, ascending, `[capacity]` places."""

    def __init__(
        out self,
        *,
        capacity: Int,
        columns: Int,
        cache_lengths: Ptr[UInt32],
        lookup_table: Ptr[UInt32],
        max_lengths: Ptr[UInt32],
    ):
        """Starts without rows.

        Args:
            capacity: Rows that fit.
            columns: Columns of the lookup table.
            cache_lengths: Written in place, `[capacity]`.
            lookup_table: Written in place, `[capacity, columns]`.
            max_lengths: Written in place, `[2]`.
        """
        self.seqs = Stack[UInt32](capacity)
        self.capacity = capacity
        self.columns = columns
        self.cache_lengths = cache_lengths
        self.lookup_table = lookup_table
        self.max_lengths = max_lengths
        self.gone = zeroed[Int64](capacity)

    def __deinit__(deinit self):
        """Gives the memory back that the caller did not bring."""
        release_memory(self.gone)

    def row_of(self, row: Int) -> Ptr[UInt32]:
        """Returns a row of the lookup table.

        Args:
            row: Which one.

        Returns:
            Its entries, `[columns]`.
        """
        return self.lookup_table.unsafe_offset(row * self.columns)


def admit(
    mut core: Core, mut running: Running, rows: Rows, namespace: Int
) -> Int:
    """Claims and reserves prompts as further rows, all or none.

    Args:
        core: The core.
        running: The batch.
        rows: The prompts; gets each one's sequence, window and hit.
        namespace: Where they begin.

    Returns:
        A status.
    """
    var status = _check_prompts(core, running, rows)
    if status != OK:
        return status
    for index in range(len(rows)):
        rows.set_seq(index, core.claim(namespace))
        var length = rows.row(index).tokens.length
        rows.set_window(index, processed=0, active=length)
    status = reserve(core, rows)
    if status != OK:
        for index in reversed(range(len(rows))):
            _ = core.release(rows.row(index).seq)
        return status
    for index in range(len(rows)):
        _append_row(core, running, rows.row(index), rows.hit(index))
    measure(core, running)
    return OK


def settle(mut core: Core, mut running: Running):
    """Takes every row's tokens as computed; full pages become findable.

    Args:
        core: The core.
        running: The batch.
    """
    for row in range(running.seqs.length):
        var length = _settle_row(core, running, row)
        running.cache_lengths[unsafe_offset=row] = length
    measure(core, running)
    core.count()


def advance(mut core: Core, mut running: Running, tokens: Tokens) -> Int:
    """Takes every row's tokens as computed, and appends one to each.

    Args:
        core: The core.
        running: The batch.
        tokens: The token of each row.

    Returns:
        A status; unless it is `OK`, nothing has changed.
    """
    var status = _check_step(core, running, tokens)
    if status != OK:
        return status
    core.moves.length = 0
    var longest: UInt32 = 0
    for row in range(running.seqs.length):
        var length = _settle_row(core, running, row)
        running.cache_lengths[unsafe_offset=row] = length
        _append_token(core, running, row, tokens[row].cast[DType.int32]())
        longest = max(longest, length + 1)
    running.max_lengths[unsafe_offset=0] = UInt32(min(running.seqs.length, 1))
    running.max_lengths[unsafe_offset=1] = longest
    core.count()
    return OK


def leave(mut core: Core, mut running: Running, count: Int):
    """Releases the rows that are in `gone`; the others close up in order.

    Args:
        core: The core.
        running: The batch.
        count: How many are in `gone`.
    """
    var rows = running.gone
    var kept = Int(rows[unsafe_offset=0]) if count > 0 else 0
    var next = 0
    for row in range(kept, running.seqs.length):
        if next < count and Int(rows[unsafe_offset=next]) == row:
            _ = core.release(Int(running.seqs[row]))
            next += 1
            continue
        _move_row(running, row, kept)
        kept += 1
    if count > 0:
        running.seqs.length = kept
    measure(core, running)
    core.count()


def measure(core: Core, mut running: Running):
    """Writes the longest new part and the longest whole.

    Args:
        core: The core.
        running: The batch.
    """
    var active: UInt32 = 0
    var longest: UInt32 = 0
    for row in range(running.seqs.length):
        ref sequence = core.sequences[unsafe_offset=Int(running.seqs[row])]
        active = max(active, sequence.length - sequence.processed)
        longest = max(longest, sequence.length)
    running.max_lengths[unsafe_offset=0] = active
    running.max_lengths[unsafe_offset=1] = longest


def _check_prompts(mut core: Core, running: Running, rows: Rows) -> Int:
    var num_rows = running.seqs.length + len(rows)
    if num_rows > running.capacity:
        return core.fail(TOO_MANY_ROWS, num_rows, running.capacity)
    if len(rows) > core.unclaimed.length:
        return core.fail(NO_SEQUENCE_LEFT, len(rows), core.unclaimed.length)
    for index in range(len(rows)):
        var tokens = rows.row(index).tokens
        if tokens.length == 0:
            return core.fail(UNREADABLE)
        if not tokens.fit(0, tokens.length):
            return core.fail(TOKEN_OUT_OF_RANGE)
        var columns = ceildiv(tokens.length, core.page_size)
        if columns > running.columns:
            return core.fail(TOO_FEW_COLUMNS, columns, running.columns)
    return OK


def _append_row(mut core: Core, mut running: Running, row: Row, hit: Int):
    var place = running.seqs.length
    running.seqs.push(UInt32(row.seq))
    ref sequence = core.sequences[unsafe_offset=row.seq]
    sequence.processed = UInt32(hit)
    sequence.length = UInt32(row.tokens.length)
    running.cache_lengths[unsafe_offset=place] = UInt32(hit)
    var num_pages = Int(sequence.num_pages)
    var table = running.row_of(place)
    unsafe_memcpy(dest=table, src=sequence.pages, count=num_pages)
    var null = UInt32(core.device.size)
    for column in range(num_pages, running.columns):
        table[unsafe_offset=column] = null
    if core.is_caching:
        _keep_tokens(core, row)


def _keep_tokens(mut core: Core, row: Row):
    """Writes a prompt's tokens into the pages that are not findable yet."""
    ref sequence = core.sequences[unsafe_offset=row.seq]
    var size = core.page_size
    for column in range(Int(sequence.num_committed), Int(sequence.num_pages)):
        var first = column * size
        row.tokens.copy_to(
            core.index.tokens_of(sequence.page(column)),
            first,
            min(size, row.tokens.length - first),
        )


def _settle_row(mut core: Core, mut running: Running, row: Int) -> UInt32:
    """Takes a row's tokens as computed; returns how many there are."""
    var seq = Int(running.seqs[row])
    ref sequence = core.sequences[unsafe_offset=seq]
    var length = sequence.length
    sequence.processed = length
    if not core.is_caching:
        return length
    var first = Int(sequence.num_committed)
    if (first + 1) * core.page_size > Int(length):
        return length
    var end = Int(length) // core.page_size
    digest_ahead(core, seq, first=first, last=end - 1)
    for column in range(first, end):
        _ = commit_digested(core, seq, column)
        var page = core.sequences[unsafe_offset=seq].pages[unsafe_offset=column]
        running.row_of(row)[unsafe_offset=column] = page
    return length


def _check_step(mut core: Core, running: Running, tokens: Tokens) -> Int:
    if not tokens.fit(0, tokens.length):
        return core.fail(TOKEN_OUT_OF_RANGE)
    var wanted = 0
    var size = UInt32(core.page_size)
    for row in range(running.seqs.length):
        ref sequence = core.sequences[unsafe_offset=Int(running.seqs[row])]
        if sequence.length == sequence.num_pages * size:
            wanted += 1
            if Int(sequence.num_pages) == running.columns:
                var columns = running.columns
                return core.fail(TOO_FEW_COLUMNS, columns + 1, columns)
    var free = core.device.num_free()
    if wanted > free:
        return core.fail(INSUFFICIENT_PAGES, wanted, free)
    return OK


def _append_token(mut core: Core, mut running: Running, row: Int, token: Int32):
    var seq = Int(running.seqs[row])
    ref sequence = core.sequences[unsafe_offset=seq]
    var size = core.page_size
    var room = Int(sequence.num_pages) * size - Int(sequence.length)
    if room == 0:
        var column = Int(sequence.num_pages)
        var page = core.allocate()
        core.sequences[unsafe_offset=seq].append(page)
        running.row_of(row)[unsafe_offset=column] = UInt32(page)
        room = size
    ref grown = core.sequences[unsafe_offset=seq]
    grown.length += 1
    if core.is_caching:
        var page = grown.page(Int(grown.num_pages) - 1)
        core.index.tokens_of(page)[unsafe_offset=size - room] = token


def _move_row(mut running: Running, source: Int, target: Int):
    if source == target:
        return
    running.seqs.values[unsafe_offset=target] = running.seqs[source]
    running.cache_lengths[unsafe_offset=target] = running.cache_lengths[
        unsafe_offset=source
    ]
    unsafe_memcpy(
        dest=running.row_of(target),
        src=running.row_of(source),
        count=running.columns,
    )
