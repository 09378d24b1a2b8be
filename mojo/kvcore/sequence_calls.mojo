"""What Python calls for a core and its sequences: from claim to release.

A core is named by its address, and belongs to the Python object that made it,
`kvcache.core.native`, which keeps every block of memory alive that it names.
"""

from std.python import PythonObject

from kvcore.arrays import write_tokens
from kvcore.commit import commit
from kvcore.core import Core, Counters
from kvcore.digest import Digest
from kvcore.handle import Handle, answer, handle_at
from kvcore.memory import at_address, release_memory, zeroed
from kvcore.reserve import check_reserve, reserve
from kvcore.rows import Rows
from kvcore.sharing import fork, truncate
from kvcore.status import OK, UNREADABLE


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
    var handle = handle_at(address)
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
    return PythonObject(handle_at(address)[].core.add_namespace(digest))


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
    return PythonObject(handle_at(address)[].core.claim(Int(py=namespace)))


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
    var handle = handle_at(address)
    var status = handle[].core.release(Int(py=seq))
    handle[].core.count()
    return answer(handle, status)


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


def reserve_rows(address: PythonObject) raises -> PythonObject:
    """Takes prefixes and pages for the rows.

    Args:
        address: The core.

    Returns:
        A status.

    Raises:
        If the argument is no number.
    """
    var handle = handle_at(address)
    return answer(handle, reserve(handle[].core, handle[].rows))


def check_rows(address: PythonObject) raises -> PythonObject:
    """Answers what `reserve_rows` would; changes nothing.

    Args:
        address: The core.

    Returns:
        A status.

    Raises:
        If the argument is no number.
    """
    var handle = handle_at(address)
    return answer(handle, check_reserve(handle[].core, handle[].rows))


def commit_rows(address: PythonObject) raises -> PythonObject:
    """Makes the rows' full pages findable.

    Args:
        address: The core.

    Returns:
        A status.

    Raises:
        If the argument is no number.
    """
    var handle = handle_at(address)
    return answer(handle, commit(handle[].core, handle[].rows))


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
    var handle = handle_at(address)
    var status = fork(handle[].core, Int(py=seq), Int(py=processed))
    return answer(handle, status)


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
    var handle = handle_at(address)
    return answer(handle, truncate(handle[].core, Int(py=seq), Int(py=length)))
