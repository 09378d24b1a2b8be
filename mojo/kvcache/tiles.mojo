"""The small matrices that compiled flows compute with, where they are kept.

A flow computes in float32, whatever memory holds: a load widens, and a store
rounds. Offsets count elements and are 64-bit.
"""

from std.memory import AddressSpace
from std.sys import align_of, size_of
from std.sys.info import is_gpu

from .vectors import GPU_VECTOR_BYTES


@always_inline
def vector_alignment[dtype: DType, width: Int]() -> Int:
    """Returns how the vectors of a tile are aligned.

    Parameters:
        dtype: The element type.
        width: The elements of a vector, a power of two.

    Returns:
        The bytes: those of a GPU's load, and on the CPU of an element.
    """
    comptime if is_gpu():
        return min(width * size_of[dtype](), GPU_VECTOR_BYTES)
    else:
        return align_of[Scalar[dtype]]()


struct Tile[
    dtype: DType,
    columns: Int,
    address_space: AddressSpace = AddressSpace.GENERIC,
](TrivialRegisterPassable):
    """A row-major matrix.

    Parameters:
        dtype: The element type.
        columns: The elements of a row.
        address_space: The kind of memory.
    """

    comptime Address = Pointer[
        Scalar[Self.dtype],
        MutUntrackedOrigin,
        address_space=Self.address_space,
    ]
    """A place in that memory."""

    var first: Self.Address
    """The first element."""

    @always_inline
    def __init__(out self, first: Self.Address):
        """Names the place.

        Args:
            first: The first element.
        """
        self.first = first

    @always_inline
    def load[
        width: Int
    ](self, row: Int, column: Int) -> SIMD[DType.float32, width]:
        """Loads a part of a row, and widens it.

        Parameters:
            width: The elements, a power of two that divides `columns`.

        Args:
            row: The row.
            column: The first element's column, a multiple of `width`.

        Returns:
            The elements.
        """
        return self.load_as_kept[width](row, column).cast[DType.float32]()

    @always_inline
    def load_as_kept[
        width: Int
    ](self, row: Int, column: Int) -> SIMD[Self.dtype, width]:
        """Loads a part of a row.

        Kernels may start before those that wrote it have ended: the load stays
        behind the wait for them.

        Parameters:
            width: The elements, a power of two that divides `columns`.

        Args:
            row: The row.
            column: The first element's column, a multiple of `width`.

        Returns:
            The elements.
        """
        return self.first.unsafe_load[
            width=width,
            alignment=vector_alignment[Self.dtype, width](),
            invariant=False,
        ](row * Self.columns + column)

    @always_inline
    def store[
        width: Int
    ](self, row: Int, column: Int, values: SIMD[DType.float32, width]):
        """Stores a part of a row.

        Parameters:
            width: The elements, a power of two that divides `columns`.

        Args:
            row: The row.
            column: The first element's column, a multiple of `width`.
            values: The elements.
        """
        self.first.unsafe_store[
            alignment=vector_alignment[Self.dtype, width]()
        ](row * Self.columns + column, values.cast[Self.dtype]())
