"""The functions that Python calls, on a core that is named by its address.

A core belongs to the Python object that made it, `kvcache.core.native`, which
keeps every block of memory alive that it names here.
"""

from std.memory import unsafe_memcpy
from std.os import abort
from std.python import PythonObject
from std.python.bindings import PythonModuleBuilder

from kvcore.arrays import read_ascending, write_tokens
from kvcore.commit import commit
from kvcore.core import Core, Counters, Move
from kvcore.digest import (
    Digest,
    key_words,
    page_digest,
    wide_page_digest,
)
from kvcore.memory import Ptr, at_address, release_memory, zeroed
from kvcore.probe import evicted_at, probe
from kvcore.reserve import check_reserve, reserve
from kvcore.retain import set_retention, tick
from kvcore.rows import Rows
from kvcore.running import Running, admit, advance, leave, settle
from kvcore.sharing import drop, forget_cached, forget_page, fork, truncate
from kvcore.status import (
    BEYOND_PAGES,
    MOVES,
    OK,
    TOO_FEW_COLUMNS,
    UNKNOWN_SEQUENCE,
    UNREADABLE,
)
from kvcore.tokens import Tokens


struct Handle(Movable):
    """A core and the memory through which it is talked to."""

    var core: Core
    """The core."""
    var rows: Rows
    """What the caller writes for a call, and reads after it."""

    def __init__(out self, var core: Core, rows: Rows):
        """Puts them together.

        Args:
            core: The core.
            rows: The caller's memory.
        """
        self.core = core^
        self.rows = rows


def _handle(address: PythonObject) raises -> Ptr[Handle]:
    return at_address[Handle](Int(py=address))


def _answer(handle: Ptr[Handle], status: Int) raises -> PythonObject:
    """Writes details and moves to where the caller reads them."""
    ref core = handle[].core
    ref rows = handle[].rows
    rows.set_header(4, Int(core.detail[0]))
    rows.set_header(5, Int(core.detail[1]))
    rows.set_header(6, core.moves.length)
    rows.set_header(7, Int(core.moves.values))
    return PythonObject(status)


def create(config: PythonObject) raises -> PythonObject:
    """Makes a core.

    Args:
        config: Address of ten 64-bit numbers: pages of the device and of the
            host, page size, sequences, whether prefixes are shared, the
            key's address, digest bits, the counters' address, the rows'
            address, and how many rows fit.

    Returns:
        Its address.

    Raises:
        If the argument is no number.
    """
    var numbers = at_address[Int64](Int(py=config))
    var core = Core(
        num_pages=Int(numbers[unsafe_offset=0]),
        num_host_pages=Int(numbers[unsafe_offset=1]),
        page_size=Int(numbers[unsafe_offset=2]),
        num_sequences=Int(numbers[unsafe_offset=3]),
        is_caching=numbers[unsafe_offset=4] != 0,
        key=at_address[UInt64](Int(numbers[unsafe_offset=5])),
        digest_bits=Int(numbers[unsafe_offset=6]),
        counters=at_address[Counters](Int(numbers[unsafe_offset=7])),
    )
    var rows = Rows(
        at_address[Int64](Int(numbers[unsafe_offset=8])),
        stride=Int(numbers[unsafe_offset=9]),
    )
    var handle = zeroed[Handle](1)
    handle.unsafe_write(Handle(core^, rows))
    return PythonObject(Int(handle))


def destroy(address: PythonObject) raises -> PythonObject:
    """Gives a core's memory back.

    Args:
        address: The core.

    Returns:
        None.

    Raises:
        If the argument is no number.
    """
    var handle = _handle(address)
    handle.unsafe_deinit_pointee()
    release_memory(handle)
    return PythonObject(None)


def add_namespace(
    address: PythonObject, low: PythonObject, high: PythonObject
) raises -> PythonObject:
    """Adds a place where sequences begin.

    Args:
        address: The core.
        low: Lower half of its digest.
        high: Upper half of its digest.

    Returns:
        Its number.

    Raises:
        If an argument is no number.
    """
    var digest = Digest(UInt64(Int(py=low)), UInt64(Int(py=high)))
    return PythonObject(_handle(address)[].core.add_namespace(digest))


def claim_sequence(
    address: PythonObject, namespace: PythonObject
) raises -> PythonObject:
    """Takes a sequence.

    Args:
        address: The core.
        namespace: Where it begins.

    Returns:
        Its number, or -1 if none is left.

    Raises:
        If an argument is no number.
    """
    return PythonObject(_handle(address)[].core.claim(Int(py=namespace)))


def release_sequence(
    address: PythonObject, seq: PythonObject
) raises -> PythonObject:
    """Gives a sequence back.

    Args:
        address: The core.
        seq: The sequence.

    Returns:
        A status.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    var status = handle[].core.release(Int(py=seq))
    handle[].core.count()
    return _answer(handle, status)


def reserve_rows(address: PythonObject) raises -> PythonObject:
    """Takes prefixes and pages for the rows.

    Args:
        address: The core.

    Returns:
        A status.

    Raises:
        If the argument is no number.
    """
    var handle = _handle(address)
    return _answer(handle, reserve(handle[].core, handle[].rows))


def name_tokens(
    memory: PythonObject, stride: PythonObject, arrays: PythonObject
) raises -> PythonObject:
    """Writes where the rows' token ids are, and how many.

    Args:
        memory: Address of the rows.
        stride: How many rows fit.
        arrays: A list of arrays, no more than that.

    Returns:
        A status.

    Raises:
        If the address or the stride is no number.
    """
    var numbers = at_address[Int64](Int(py=memory))
    var rows = Rows(numbers, stride=Int(py=stride))
    return PythonObject(OK if write_tokens(arrays, rows) else UNREADABLE)


def check_rows(address: PythonObject) raises -> PythonObject:
    """Answers what `reserve_rows` would; changes nothing.

    Args:
        address: The core.

    Returns:
        A status.

    Raises:
        If the argument is no number.
    """
    var handle = _handle(address)
    return _answer(handle, check_reserve(handle[].core, handle[].rows))


def commit_rows(address: PythonObject) raises -> PythonObject:
    """Makes the rows' full pages findable.

    Args:
        address: The core.

    Returns:
        A status.

    Raises:
        If the argument is no number.
    """
    var handle = _handle(address)
    return _answer(handle, commit(handle[].core, handle[].rows))


def fork_sequence(
    address: PythonObject, seq: PythonObject, processed: PythonObject
) raises -> PythonObject:
    """Takes a sequence that shares the first pages of another.

    Args:
        address: The core.
        seq: The sequence to share with.
        processed: The tokens to share.

    Returns:
        A status; the first detail of `OK` is the new sequence.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    var status = fork(handle[].core, Int(py=seq), Int(py=processed))
    return _answer(handle, status)


def truncate_sequence(
    address: PythonObject, seq: PythonObject, length: PythonObject
) raises -> PythonObject:
    """Lets go of a sequence's pages behind its first tokens.

    Args:
        address: The core.
        seq: The sequence.
        length: The tokens that stay.

    Returns:
        A status.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    return _answer(handle, truncate(handle[].core, Int(py=seq), Int(py=length)))


def drop_prefix(
    address: PythonObject, seq: PythonObject, column: PythonObject
) raises -> PythonObject:
    """Makes a sequence's pages, and all that follows them, unfindable.

    Args:
        address: The core.
        seq: The sequence.
        column: The first of its pages to give up.

    Returns:
        A status.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    return _answer(handle, drop(handle[].core, Int(py=seq), Int(py=column)))


def forget_one(
    address: PythonObject, page: PythonObject
) raises -> PythonObject:
    """Makes a page, and all that follows it, unfindable.

    Args:
        address: The core.
        page: The page, of the device or of the host.

    Returns:
        A status.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    forget_page(handle[].core, Int(py=page))
    return _answer(handle, OK)


def forget_prefixes(address: PythonObject) raises -> PythonObject:
    """Makes what no sequence holds unfindable.

    Args:
        address: The core.

    Returns:
        A status.

    Raises:
        If the argument is no number.
    """
    var handle = _handle(address)
    forget_cached(handle[].core)
    return _answer(handle, OK)


def set_priority(
    address: PythonObject,
    seq: PythonObject,
    priority: PythonObject,
    expires: PythonObject,
) raises -> PythonObject:
    """Sets the priority of what a sequence commits, and has committed.

    Args:
        address: The core.
        seq: The sequence.
        priority: From 0 to 100.
        expires: When it ends.

    Returns:
        A status.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    var number = Int(py=seq)
    if not handle[].core.is_claimed(number):
        var status = handle[].core.fail(UNKNOWN_SEQUENCE, number)
        return _answer(handle, status)
    set_retention(
        handle[].core,
        number,
        priority=Int(py=priority),
        expires=Float64(py=expires),
    )
    return _answer(handle, OK)


def set_clock(address: PythonObject, now: PythonObject) raises -> PythonObject:
    """Sets the clock.

    Args:
        address: The core.
        now: The time.

    Returns:
        None.

    Raises:
        If an argument is no number.
    """
    tick(_handle(address)[].core, Float64(py=now))
    return PythonObject(None)


def is_sequence(
    address: PythonObject, seq: PythonObject
) raises -> PythonObject:
    """Returns whether a sequence is claimed.

    Args:
        address: The core.
        seq: The sequence.

    Returns:
        Whether it is.

    Raises:
        If an argument is no number.
    """
    return PythonObject(_handle(address)[].core.is_claimed(Int(py=seq)))


def look_at(address: PythonObject, seq: PythonObject) raises -> PythonObject:
    """Writes where a sequence's pages are, and how many are findable.

    Args:
        address: The core; the address, the number of pages and that of the
            committed ones go to the header's places 8 to 10.
        seq: The sequence; one that is not claimed has no pages.

    Returns:
        None.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    ref rows = handle[].rows
    var number = Int(py=seq)
    rows.set_header(9, 0)
    rows.set_header(10, 0)
    if handle[].core.is_claimed(number):
        ref sequence = handle[].core.sequences[unsafe_offset=number]
        rows.set_header(8, Int(sequence.pages))
        rows.set_header(9, Int(sequence.num_pages))
        rows.set_header(10, Int(sequence.num_committed))
    return PythonObject(None)


def describe(
    address: PythonObject, target: PythonObject
) raises -> PythonObject:
    """Writes where the core keeps its books, for checks.

    Args:
        address: The core.
        target: Address of nine 64-bit numbers: the addresses of the pages and
            of their token ids, the fronts of the device's and the host's
            lists, the links to their oldest blank pages, the pages of each
            that were handed out before, and all pages.

    Returns:
        None.

    Raises:
        If an argument is no number.
    """
    var numbers = at_address[Int64](Int(py=target))
    ref core = _handle(address)[].core
    numbers[unsafe_offset=0] = Int64(Int(core.pages))
    numbers[unsafe_offset=1] = Int64(Int(core.index.kept))
    numbers[unsafe_offset=2] = Int64(Int(core.device.fronts))
    numbers[unsafe_offset=3] = Int64(Int(core.host.fronts))
    numbers[unsafe_offset=4] = Int64(core.device.blank_front)
    numbers[unsafe_offset=5] = Int64(core.host.blank_front)
    numbers[unsafe_offset=6] = Int64(core.device.num_touched)
    numbers[unsafe_offset=7] = Int64(core.host.num_touched)
    numbers[unsafe_offset=8] = Int64(core.device.size + core.host.size)
    return PythonObject(None)


def look_at_row(
    address: PythonObject, batch: PythonObject, row: PythonObject
) raises -> PythonObject:
    """Writes where a running batch's row has its pages; see `look_at`.

    Args:
        address: The core.
        batch: The batch.
        row: The row.

    Returns:
        None.

    Raises:
        If an argument is no number.
    """
    var running = at_address[Running](Int(py=batch))
    var seq = Int(running[].seqs[Int(py=row)])
    return look_at(address, PythonObject(seq))


def fill_table(
    address: PythonObject, table: PythonObject, columns: PythonObject
) raises -> PythonObject:
    """Writes the first pages of the rows into a lookup table.

    Args:
        address: The core; each row's `active` says how many pages.
        table: Address of the table, uint32 `[rows, columns]`.
        columns: Its columns.

    Returns:
        A status; the details of `BEYOND_PAGES` are a row and what it holds.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    var width = Int(py=columns)
    var target = at_address[UInt32](Int(py=table))
    ref core = handle[].core
    for index in range(len(handle[].rows)):
        var row = handle[].rows.row(index)
        var held = 0
        if core.is_claimed(row.seq):
            held = Int(core.sequences[unsafe_offset=row.seq].num_pages)
        if row.active > held:
            return _answer(handle, core.fail(BEYOND_PAGES, index, held))
        if row.active > width:
            return _answer(
                handle, core.fail(TOO_FEW_COLUMNS, row.active, width)
            )
    for index in range(len(handle[].rows)):
        var row = handle[].rows.row(index)
        if row.active > 0:
            unsafe_memcpy(
                dest=target.unsafe_offset(index * width),
                src=core.sequences[unsafe_offset=row.seq].pages,
                count=row.active,
            )
    return _answer(handle, OK)


def probe_row(
    address: PythonObject, namespace: PythonObject
) raises -> PythonObject:
    """Finds the pages of the first row's tokens.

    Args:
        address: The core; the address and the number of the pages found go to
            the header's places 8 and 9.
        namespace: Where the tokens begin.

    Returns:
        The tokens that match inside a further page.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    var tokens = handle[].rows.row(0).tokens
    var partial = probe(handle[].core, Int(py=namespace), tokens)
    handle[].rows.set_header(8, Int(handle[].core.hits.values))
    handle[].rows.set_header(9, handle[].core.hits.length)
    return PythonObject(partial)


def find_evictions(
    address: PythonObject, namespace: PythonObject, times: PythonObject
) raises -> PythonObject:
    """Writes when the pages of the first row's tokens were evicted.

    Args:
        address: The core.
        namespace: Where the tokens begin.
        times: Address of a 64-bit float a page.

    Returns:
        None.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    evicted_at(
        handle[].core,
        Int(py=namespace),
        handle[].rows.row(0).tokens,
        at_address[Float64](Int(py=times)),
    )
    return PythonObject(None)


def open_running(config: PythonObject) raises -> PythonObject:
    """Makes a running batch.

    Args:
        config: Address of five 64-bit numbers: rows that fit, columns, and
            the addresses of cache lengths, lookup table and longest lengths.

    Returns:
        Its address.

    Raises:
        If the argument is no number.
    """
    var numbers = at_address[Int64](Int(py=config))
    var running = zeroed[Running](1)
    running.unsafe_write(
        Running(
            capacity=Int(numbers[unsafe_offset=0]),
            columns=Int(numbers[unsafe_offset=1]),
            cache_lengths=at_address[UInt32](Int(numbers[unsafe_offset=2])),
            lookup_table=at_address[UInt32](Int(numbers[unsafe_offset=3])),
            max_lengths=at_address[UInt32](Int(numbers[unsafe_offset=4])),
        )
    )
    return PythonObject(Int(running))


def close_running(address: PythonObject) raises -> PythonObject:
    """Gives a running batch's memory back; its rows must have left.

    Args:
        address: The batch.

    Returns:
        None.

    Raises:
        If the argument is no number.
    """
    var running = at_address[Running](Int(py=address))
    running.unsafe_deinit_pointee()
    release_memory(running)
    return PythonObject(None)


def admit_rows(
    address: PythonObject,
    batch: PythonObject,
    namespace: PythonObject,
    prompts: PythonObject,
) raises -> PythonObject:
    """Claims and reserves prompts as further rows of a running batch.

    Args:
        address: The core; its rows get those of the prompts.
        batch: The batch.
        namespace: Where the prompts begin.
        prompts: A list of arrays of token ids, no more than rows fit.

    Returns:
        A status.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    if not write_tokens(prompts, handle[].rows):
        return PythonObject(UNREADABLE)
    var running = at_address[Running](Int(py=batch))
    return _answer(
        handle,
        admit(handle[].core, running[], handle[].rows, Int(py=namespace)),
    )


def settle_rows(
    address: PythonObject, batch: PythonObject
) raises -> PythonObject:
    """Takes a running batch's tokens as computed.

    Args:
        address: The core.
        batch: The batch.

    Returns:
        None.

    Raises:
        If an argument is no number.
    """
    var running = at_address[Running](Int(py=batch))
    settle(_handle(address)[].core, running[])
    return PythonObject(None)


def advance_rows(
    address: PythonObject,
    batch: PythonObject,
    tokens: PythonObject,
    width: PythonObject,
) raises -> PythonObject:
    """Takes a running batch's tokens as computed, and appends one to each.

    Args:
        address: The core.
        batch: The batch.
        tokens: Address of a token id a row.
        width: Bytes of an id, 4 or 8.

    Returns:
        A status; `MOVES` for `OK` with pages to move.

    Raises:
        If an argument is no number.
    """
    var handle = _handle(address)
    var running = at_address[Running](Int(py=batch))
    var row = Tokens(
        address=Int(py=tokens),
        length=running[].seqs.length,
        width=Int(py=width),
    )
    var status = advance(handle[].core, running[], row)
    if status == OK and handle[].core.moves.length == 0:
        return PythonObject(OK)
    return _answer(handle, MOVES if status == OK else status)


def leave_rows(
    address: PythonObject, batch: PythonObject, rows: PythonObject
) raises -> PythonObject:
    """Releases rows of a running batch.

    Args:
        address: The core.
        batch: The batch.
        rows: A list of the rows, in ascending order.

    Returns:
        A status.

    Raises:
        If an address is no number.
    """
    var running = at_address[Running](Int(py=batch))
    var end = running[].seqs.length
    var count = read_ascending(rows, running[].gone, end=end)
    if count < 0:
        return PythonObject(UNREADABLE)
    leave(_handle(address)[].core, running[], count)
    return PythonObject(OK)


def digest_pages(config: PythonObject) raises -> PythonObject:
    """Writes the chained digests of a row of tokens; for measurements.

    Args:
        config: Address of six 64-bit numbers: the address of token ids that
            fit 32 bits, how many pages, the page size, the key's address, that
            of the digests, two 64-bit words a page, and bytes of an id.

    Returns:
        None.

    Raises:
        If the argument is no number.
    """
    var numbers = at_address[Int64](Int(py=config))
    var pages = Int(numbers[unsafe_offset=1])
    var size = Int(numbers[unsafe_offset=2])
    var tokens = Tokens(
        address=Int(numbers[unsafe_offset=0]),
        length=pages * size,
        width=Int(numbers[unsafe_offset=5]),
    )
    var key = at_address[UInt64](Int(numbers[unsafe_offset=3]))
    var digests = at_address[Digest](Int(numbers[unsafe_offset=4]))
    var digest = Digest(0, 0)
    var kept = zeroed[Int32](size + 4)
    for page in range(pages):
        if tokens.is_wide and size % 4 == 0:
            var ids = at_address[Int64](tokens.address)
            digest = wide_page_digest(
                digest, ids.unsafe_offset(page * size), size, key
            )
        else:
            tokens.copy_to(kept, page * size, size)
            digest = page_digest(digest, kept, size, key)
        digests[unsafe_offset=page] = digest
    release_memory(kept)
    return PythonObject(None)


def count_key_words(page_size: PythonObject) raises -> PythonObject:
    """Returns the 64-bit words of a digest's key.

    Args:
        page_size: Tokens per page.

    Returns:
        How many.

    Raises:
        If the argument is no number.
    """
    return PythonObject(key_words(Int(py=page_size)))


@export
def PyInit__kvcore() abi("C") -> PythonObject:
    """Makes the Python module.

    Returns:
        The module.
    """
    try:
        var module = PythonModuleBuilder("_kvcore")
        module.def_function[create]("create")
        module.def_function[destroy]("destroy")
        module.def_function[add_namespace]("add_namespace")
        module.def_function[claim_sequence]("claim")
        module.def_function[release_sequence]("release")
        module.def_function[reserve_rows]("reserve")
        module.def_function[check_rows]("check_reserve")
        module.def_function[name_tokens]("write_tokens")
        module.def_function[commit_rows]("commit")
        module.def_function[fork_sequence]("fork")
        module.def_function[truncate_sequence]("truncate")
        module.def_function[drop_prefix]("drop")
        module.def_function[forget_one]("forget_page")
        module.def_function[forget_prefixes]("forget_cached")
        module.def_function[set_priority]("set_retention")
        module.def_function[set_clock]("tick")
        module.def_function[is_sequence]("is_claimed")
        module.def_function[look_at]("look_at")
        module.def_function[look_at_row]("look_at_row")
        module.def_function[describe]("describe")
        module.def_function[fill_table]("fill")
        module.def_function[probe_row]("probe")
        module.def_function[find_evictions]("evicted_at")
        module.def_function[open_running]("open_running")
        module.def_function[close_running]("close_running")
        module.def_function[admit_rows]("admit")
        module.def_function[settle_rows]("settle")
        module.def_function[advance_rows]("advance")
        module.def_function[leave_rows]("leave")
        module.def_function[digest_pages]("digest_pages")
        module.def_function[count_key_words]("count_key_words")
        return module.finalize()
    except error:
        abort(String("kvcore: ", error))
