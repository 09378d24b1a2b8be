"""What Python calls to see what a core holds."""

from std.memory import unsafe_memcpy
from std.python import PythonObject

from kvcore.handle import answer, handle_at
from kvcore.memory import at_address
from kvcore.running import Running
from kvcore.status import BEYOND_PAGES, OK, TOO_FEW_COLUMNS


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
    return PythonObject(handle_at(address)[].core.is_claimed(Int(py=seq)))


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
    var handle = handle_at(address)
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
    ref core = handle_at(address)[].core
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
    var handle = handle_at(address)
    var width = Int(py=columns)
    var target = at_address[UInt32](Int(py=table))
    ref core = handle[].core
    for index in range(len(handle[].rows)):
        var row = handle[].rows.row(index)
        var held = 0
        if core.is_claimed(row.seq):
            held = Int(core.sequences[unsafe_offset=row.seq].num_pages)
        if row.active > held:
            return answer(handle, core.fail(BEYOND_PAGES, index, held))
        if row.active > width:
            return answer(handle, core.fail(TOO_FEW_COLUMNS, row.active, width))
    for index in range(len(handle[].rows)):
        var row = handle[].rows.row(index)
        if row.active > 0:
            unsafe_memcpy(
                dest=target.unsafe_offset(index * width),
                src=core.sequences[unsafe_offset=row.seq].pages,
                count=row.active,
            )
    return answer(handle, OK)
