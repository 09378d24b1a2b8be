"""A GPU block's shared memory."""

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
