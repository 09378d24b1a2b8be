"""What Python calls for a running batch."""

from std.python import PythonObject

from kvcore.arrays import read_ascending, write_tokens
from kvcore.handle import answer, handle_at
from kvcore.memory import at_address, release_memory, zeroed
from kvcore.running import Running, admit, advance, leave, settle
from kvcore.status import MOVES, OK, UNREADABLE
from kvcore.tokens import Tokens


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
    var handle = handle_at(address)
    if not write_tokens(prompts, handle[].rows):
        return PythonObject(UNREADABLE)
    var running = at_address[Running](Int(py=batch))
    return answer(
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
    settle(handle_at(address)[].core, running[])
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
    var handle = handle_at(address)
    var running = at_address[Running](Int(py=batch))
    var row = Tokens(
        address=Int(py=tokens),
        length=running[].seqs.length,
        width=Int(py=width),
    )
    var status = advance(handle[].core, running[], row)
    if status == OK and handle[].core.moves.length == 0:
        return PythonObject(OK)
    return answer(handle, MOVES if status == OK else status)


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
    leave(handle_at(address)[].core, running[], count)
    return PythonObject(OK)
