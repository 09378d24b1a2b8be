"""Reads Python's lists of arrays, and of numbers, in one call.

See:
    [Buffer protocol](https://docs.python.org/3/c-api/buffer.html), through
    which arrays are read.
"""

from std.ffi import c_int, external_call
from std.python import PythonObject

from .memory import Ptr, at_address
from .rows import Rows
from .tokens import Tokens

comptime _CONTIGUOUS_WITH_FORMAT = c_int(0x3C)
"""`PyBUF_C_CONTIGUOUS | PyBUF_FORMAT`."""


@fieldwise_init
struct _Buffer(TrivialRegisterPassable):
    """CPython's `Py_buffer`."""

    var start: Int
    var owner: Int
    var num_bytes: Int
    var item_bytes: Int
    var is_readonly: Int32
    var rank: Int32
    var format: Int
    var shape: Int
    var strides: Int
    var suboffsets: Int
    var internal: Int

    def __init__(out self):
        self = Self(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

    def is_row_of_ids(self) -> Bool:
        """Returns whether it is a row of signed integers that `Tokens` takes."""
        if self.rank != 1 or not (self.item_bytes == 4 or self.item_bytes == 8):
            return False
        var format = at_address[UInt8](self.format)
        var kind = Int(format[unsafe_offset=0])
        var is_signed = kind == ord("i") or kind == ord("l") or kind == ord("q")
        return is_signed and format[unsafe_offset=1] == 0


def write_tokens(arrays: PythonObject, rows: Rows) -> Bool:
    """Writes where token ids are that Python has, and how many.

    Args:
        arrays: A list of arrays, no more than rows fit; whoever calls keeps it.
        rows: Gets a row for each array.

    Returns:
        Whether all are rows of 32 or 64-bit integers, contiguous and of the
        machine's byte order; else what the rows say is of no use.
    """
    var count = _length(arrays)
    for index in range(count):
        var buffer = _Buffer()
        if (
            external_call["PyObject_GetBuffer", c_int](
                _item(arrays, index),
                Pointer(to=buffer),
                _CONTIGUOUS_WITH_FORMAT,
            )
            != 0
        ):
            external_call["PyErr_Clear", NoneType]()
            return False
        var is_row = buffer.is_row_of_ids()
        external_call["PyBuffer_Release", NoneType](Pointer(to=buffer))
        if not is_row:
            return False
        rows.set_tokens(
            index,
            Tokens(
                address=buffer.start,
                length=buffer.num_bytes // buffer.item_bytes,
                width=buffer.item_bytes,
            ),
        )
    rows.set_header(0, count)
    return True


def read_ascending(
    numbers: PythonObject, target: Ptr[Int64], *, end: Int
) -> Int:
    """Copies a list of Python's numbers, each greater than the one before.

    Args:
        numbers: The list.
        target: Where they go, `[end]`.
        end: What all are below; the first is at least 0.

    Returns:
        How many there are; -1 if one is not as said.
    """
    var least = 0
    var count = _length(numbers)
    for index in range(count):
        var number = external_call["PyLong_AsLongLong", Int64](
            _item(numbers, index)
        )
        if not least <= Int(number) < end:
            external_call["PyErr_Clear", NoneType]()
            return -1
        target[unsafe_offset=index] = number
        least = Int(number) + 1
    return count


def _length(items: PythonObject) -> Int:
    return external_call["PyList_Size", Int](items._obj_ptr)


def _item(items: PythonObject, index: Int) -> Ptr[UInt8]:
    return external_call["PyList_GetItem", Ptr[UInt8]](items._obj_ptr, index)
