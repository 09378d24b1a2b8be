"""What Python calls for cached prefixes: forgetting, keeping, finding."""

from std.python import PythonObject

from kvcore.handle import answer, handle_at
from kvcore.memory import at_address
from kvcore.probe import evicted_at, probe
from kvcore.retain import set_retention, tick
from kvcore.sharing import drop, evict, forget_cached, forget_page
from kvcore.status import OK, UNKNOWN_SEQUENCE


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
    var handle = handle_at(address)
    return answer(handle, drop(handle[].core, Int(py=seq), Int(py=column)))


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
    var handle = handle_at(address)
    forget_page(handle[].core, Int(py=page))
    return answer(handle, OK)


def forget_prefixes(address: PythonObject) raises -> PythonObject:
    """Makes what no sequence holds unfindable.

    Args:
        address: The core.

    Returns:
        A status.

    Raises:
        If the argument is no number.
    """
    var handle = handle_at(address)
    forget_cached(handle[].core)
    return answer(handle, OK)


def evict_pages(
    address: PythonObject, num_pages: PythonObject
) raises -> PythonObject:
    """Gives up the cached pages of the device that go first.

    Args:
        address: The core; the address and the number of the pages go to the
            header's places 8 and 9.
        num_pages: How many.

    Returns:
        A status.

    Raises:
        If an argument is no number.
    """
    var handle = handle_at(address)
    var status = evict(handle[].core, Int(py=num_pages))
    handle[].rows.set_header(8, Int(handle[].core.hits.values))
    handle[].rows.set_header(9, handle[].core.hits.length)
    return answer(handle, status)


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
    var handle = handle_at(address)
    var number = Int(py=seq)
    if not handle[].core.is_claimed(number):
        var status = handle[].core.fail(UNKNOWN_SEQUENCE, number)
        return answer(handle, status)
    set_retention(
        handle[].core,
        number,
        priority=Int(py=priority),
        expires=Float64(py=expires),
    )
    return answer(handle, OK)


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
    tick(handle_at(address)[].core, Float64(py=now))
    return PythonObject(None)


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
    var handle = handle_at(address)
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
    var handle = handle_at(address)
    evicted_at(
        handle[].core,
        Int(py=namespace),
        handle[].rows.row(0).tokens,
        at_address[Float64](Int(py=times)),
    )
    return PythonObject(None)
