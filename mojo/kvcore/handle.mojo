"""A core together with the memory through which Python talks to it."""

from std.python import PythonObject

from kvcore.core import Core
from kvcore.memory import Ptr, at_address
from kvcore.rows import Rows


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


def handle_at(address: PythonObject) raises -> Ptr[Handle]:
    """Returns what an address names.

    Args:
        address: The address that `create` gave.

    Returns:
        The core and its rows.

    Raises:
        If the address is no number.
    """
    return at_address[Handle](Int(py=address))


def answer(handle: Ptr[Handle], status: Int) raises -> PythonObject:
    """Writes details and moves to where the caller reads them.

    Args:
        handle: The core and its rows.
        status: What a call came to.

    Returns:
        The status.

    Raises:
        If Python has no memory for it.
    """
    ref core = handle[].core
    ref rows = handle[].rows
    rows.set_header(4, Int(core.detail[0]))
    rows.set_header(5, Int(core.detail[1]))
    rows.set_header(6, core.moves.length)
    rows.set_header(7, Int(core.moves.values))
    return PythonObject(status)
