"""Memory that the core owns: zeroed, and untouched until it is used."""

from std.ffi import c_int, external_call
from std.math import align_up
from std.memory import unsafe_memcpy
from std.sys import CompilationTarget, size_of

comptime _MEMORY_PAGE = 4096
comptime _HUGE_PAGE = 2 << 20
comptime _MADV_HUGEPAGE = c_int(14)

comptime LINE_BYTES = 64
"""Bytes in a line of the processor's cache."""

comptime Ptr[T: AnyType] = Pointer[T, MutUntrackedOrigin]
"""A pointer to memory that the core or its caller keeps alive.

Parameters:
    T: What the memory holds.
"""


def zeroed[T: AnyType](count: Int) -> Ptr[T]:
    """Returns memory whose bytes are zero.

    Large blocks come straight from the operating system and cost nothing
    until they are touched; then two MiB come at once, where it has them.

    Parameters:
        T: What the memory holds; all zeros must be a value of it.

    Args:
        count: How many values.

    Returns:
        The memory; give it back with `release_memory`.
    """
    var memory = external_call["calloc", Ptr[T]](max(count, 1), size_of[T]())
    comptime if CompilationTarget.is_linux():
        _ask_for_huge_pages(Int(memory), count * size_of[T]())
    return memory


def _ask_for_huge_pages(address: Int, num_bytes: Int):
    """Has Linux find memory for a large block in few large pieces.

    Each piece costs a fault, and a walk whenever it is looked at again. See
    [madvise](https://man7.org/linux/man-pages/man2/madvise.2.html).
    """
    var first = align_up(address, _HUGE_PAGE)
    var size = (address + num_bytes - first) // _HUGE_PAGE * _HUGE_PAGE
    if size > 0:
        _ = external_call["madvise", c_int](first, size, _MADV_HUGEPAGE)


def at_a_line[T: AnyType](memory: Ptr[T]) -> Ptr[T]:
    """Returns where a line of the processor's cache begins in a block.

    Parameters:
        T: What the memory holds.

    Args:
        memory: A block of `zeroed`; a line less of it can be used.

    Returns:
        The first place at a multiple of a line's bytes.
    """
    return at_address[T](align_up(Int(memory), LINE_BYTES))


def touched[T: AnyType](count: Int, *, ahead: Int) -> Ptr[T]:
    """Returns memory whose bytes are zero; its beginning is there already.

    For tables that are written here and there: the operating system does not
    have to find memory for them one place after the other.

    Parameters:
        T: What the memory holds; all zeros must be a value of it.

    Args:
        count: How many values.
        ahead: How many of them are there.

    Returns:
        The memory; give it back with `release_memory`.
    """
    var memory = zeroed[T](count)
    var bytes = memory.unsafe_bitcast[UInt8]()
    for place in range(0, ahead * size_of[T](), _MEMORY_PAGE):
        bytes.unsafe_store[volatile=True](place, UInt8(0))
    return memory


def grown[T: AnyType](memory: Ptr[T], count: Int) -> Ptr[T]:
    """Returns the same contents in a larger block.

    Parameters:
        T: What the memory holds.

    Args:
        memory: A block of `zeroed` or of this; no longer valid afterwards.
        count: How many values the new block takes.

    Returns:
        The new block; what is beyond the old contents is undefined.
    """
    return external_call["realloc", Ptr[T]](memory, count * size_of[T]())


def release_memory[T: AnyType](memory: Ptr[T]):
    """Gives memory back.

    Parameters:
        T: What the memory held.

    Args:
        memory: A block of `zeroed` or `grown`.
    """
    external_call["free", NoneType](memory)


def at_address[T: AnyType](address: Int) -> Ptr[T]:
    """Returns memory that a caller named.

    Parameters:
        T: What the memory holds.

    Args:
        address: Where it starts.

    Returns:
        A pointer to it.
    """
    return Ptr[T](unsafe_from_address=address)


struct Stack[T: TrivialRegisterPassable](Movable):
    """A growing row of values.

    Parameters:
        T: The type of a value.
    """

    var values: Ptr[Self.T]
    """The values, `[length]`."""
    var length: Int
    """How many values there are."""
    var capacity: Int
    """How many values fit before it grows."""

    def __init__(out self, capacity: Int = 64):
        """Starts empty.

        Args:
            capacity: How many values fit at first.
        """
        self.values = zeroed[Self.T](capacity)
        self.length = 0
        self.capacity = capacity

    def __deinit__(deinit self):
        """Gives the memory back."""
        release_memory(self.values)

    def push(mut self, value: Self.T):
        """Appends a value.

        Args:
            value: The value.
        """
        if self.length == self.capacity:
            self.capacity *= 2
            self.values = grown(self.values, self.capacity)
        self.values[unsafe_offset=self.length] = value
        self.length += 1

    def pop(mut self) -> Self.T:
        """Takes the last value; there must be one.

        Returns:
            The value.
        """
        self.length -= 1
        return self.values[unsafe_offset=self.length]

    def __getitem__(self, index: Int) -> Self.T:
        """Returns a value.

        Args:
            index: Its place, from 0.

        Returns:
            The value.
        """
        return self.values[unsafe_offset=index]
