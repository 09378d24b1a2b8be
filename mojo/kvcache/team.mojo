"""The lanes that compute a tile together: some of a warp, or one of a CPU."""

from max.gpu import WARP_SIZE, lane_id, thread_idx
from max.gpu.primitives import warp
from max.gpu.sync import syncwarp
from std.bit import log2_floor


struct Team[lanes: Int](TrivialRegisterPassable):
    """Lanes side by side in a warp; all of them make every call.

    Lanes of several warps each have their columns, and nothing to say to one
    another.

    Parameters:
        lanes: How many, a power of two; 1 on the CPU.
    """

    var lane: Int
    """This lane's place in the team."""

    @always_inline
    def __init__(out self):
        """Finds the lane's place."""
        comptime if Self.lanes == 1:
            self.lane = 0
        elif Self.lanes > WARP_SIZE:
            self.lane = Int(thread_idx.x) % Self.lanes
        else:
            self.lane = Int(lane_id()) % Self.lanes

    @always_inline
    def column[width: Int](self, chunk: Int) -> Int:
        """Returns where this lane's part of a row begins.

        Parameters:
            width: The elements of a part.

        Args:
            chunk: The round in which every lane has one part.

        Returns:
            The column.
        """
        return (chunk * Self.lanes + self.lane) * width

    @always_inline
    def sum(self, value: Float32) -> Float32:
        """Adds what the lanes have.

        Args:
            value: This lane's.

        Returns:
            The sum, the same on every lane.
        """
        var total = value
        comptime for step in range(log2_floor(Self.lanes)):
            total += warp.shuffle_xor(total, UInt32(1 << step))
        return total

    @always_inline
    def max(self, value: Float32) -> Float32:
        """Finds the largest of what the lanes have.

        Args:
            value: This lane's.

        Returns:
            The largest, the same on every lane.
        """
        var largest = value
        comptime for step in range(log2_floor(Self.lanes)):
            largest = max(largest, warp.shuffle_xor(largest, UInt32(1 << step)))
        return largest

    @always_inline
    def min(self, value: Float32) -> Float32:
        """Finds the smallest of what the lanes have.

        Args:
            value: This lane's.

        Returns:
            The smallest, the same on every lane.
        """
        var least = value
        comptime for step in range(log2_floor(Self.lanes)):
            least = min(least, warp.shuffle_xor(least, UInt32(1 << step)))
        return least

    @always_inline
    def sync(self):
        """Waits until all lanes see what each has stored."""
        comptime if Self.lanes > 1:
            syncwarp()
