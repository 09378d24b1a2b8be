"""A GPU block's shared memory, and copies into it."""

from max.gpu.memory import async_copy
from std.memory import AddressSpace

comptime Shared[type: AnyType] = Pointer[
    type, MutUntrackedOrigin, address_space=AddressSpace.SHARED
]
"""A pointer into a block's shared memory.

Parameters:
    type: What it points to.
"""

comptime PIECE_BYTES = 16
"""What one thread copies into shared memory at once."""

comptime MAX_SHARED_BYTES = 227 * 1024
"""The shared memory that a block may have on Hopper."""


@always_inline
def copy_piece[
    dtype: DType, //
](source: Pointer[Scalar[dtype], _], target: Shared[UInt8], *, is_read: Bool):
    """Starts to copy a piece, or to fill it with zeros.

    Parameters:
        dtype: The type of its elements.

    Args:
        source: The piece in the GPU's memory.
        target: Where it goes.
        is_read: Whether the piece is read; else zeros are written.
    """
    async_copy[PIECE_BYTES, fill=UInt8(0)](
        source.unsafe_bitcast[UInt8]().unsafe_address_space_cast[
            AddressSpace.GLOBAL
        ](),
        target,
        Int32(PIECE_BYTES) if is_read else Int32(0),
    )
