"""Which pieces of a block of keys, or of values, a thread brings."""

from max.gpu import thread_idx

from .prefill_shape import PrefillShape, place_of
from .shared_memory import PIECE_BYTES


struct PieceShare[shape: PrefillShape](TrivialRegisterPassable):
    """A thread's pieces: one of every `rows` rows, in the same place of each.

    A turn of all threads brings a power of two of rows, at least the eight
    after which the swizzle repeats itself: from turn to turn, only what is
    added to addresses changes, and that is known beforehand.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime width = PIECE_BYTES if Self.shape.is_quantized() else 8
    """The elements of a piece."""

    comptime pieces = Self.shape.head_dim() // Self.width
    """The pieces of a row."""

    comptime rows = _power_of_two(
        min(Self.shape.keys, Self.shape.threads() // Self.pieces)
    )
    """The rows that all threads bring in one turn."""

    comptime turns = Self.shape.keys // Self.rows
    """The turns that bring a block."""

    comptime is_full = Self.rows * Self.pieces == Self.shape.threads()
    """Whether every thread has a piece."""

    comptime row_bytes = (
        Self.shape.head_dim() if Self.shape.is_quantized() else 2
        * Self.shape.panel()
    )
    """The bytes between two rows in shared memory, as they are loaded."""

    var row: UInt32
    """The row of the thread's first piece."""

    var piece: UInt32
    """The place of the thread's pieces in their rows."""

    @always_inline
    def __init__(out self):
        """Finds the share of this thread."""
        self.row, self.piece = divmod(UInt32(thread_idx.x), UInt32(Self.pieces))

    @always_inline
    def is_in_use(self) -> Bool:
        """Returns whether the thread has pieces.

        Returns:
            Whether it has.
        """
        return Self.is_full or self.row < UInt32(Self.rows)

    @always_inline
    def target(self) -> Int:
        """Returns where the thread's first piece is loaded.

        Returns:
            The offset from a block's keys, or values, in bytes.
        """
        comptime if Self.shape.is_quantized():
            return Int(thread_idx.x) * PIECE_BYTES
        return place_of[Self.shape, Self.shape.keys](self.row, self.piece)


def _power_of_two(limit: Int) -> Int:
    """Returns the largest power of two up to a limit."""
    var power = 1
    while 2 * power <= limit:
        power *= 2
    return power
