"""Shares the rows of a batch among the lanes of a GPU."""

from max.gpu import WARP_SIZE, block_idx, lane_id, thread_idx
from std.math import ceildiv

comptime ROW_THREADS = 128
"""The threads of a block of a kernel that moves rows.

With more, a small batch is on fewer processors; with less, a large one has
more blocks than a GPU starts in time."""


def lanes_per_row(num_items: Int) -> Int:
    """Returns how many lanes of a warp share a row.

    Args:
        num_items: What there is to move of a row.

    Returns:
        A power of two up to the lanes of a warp.
    """
    var lanes = 1
    while lanes < min(num_items, WARP_SIZE):
        lanes *= 2
    return lanes


def half_of_even(count: Int) -> Int:
    """Returns what is left where a lane has two, if that divides them.

    Args:
        count: How many there are.

    Returns:
        Half of an even number, or all of an odd one.
    """
    return count // 2 if count % 2 == 0 else count


struct RowShare[num_items: Int, threads: Int = ROW_THREADS]:
    """Which item of which row each lane of the grid has, such as a vector.

    Short rows share a warp; a long one has several.

    Parameters:
        num_items: The items of a row.
        threads: The threads of a block.
    """

    comptime lanes = lanes_per_row(Self.num_items)
    """The lanes of a warp that share a row."""

    comptime is_warp_wide = Self.num_items % WARP_SIZE == 0
    """Whether all lanes of a warp have an item, and of the same row."""

    comptime num_parts = ceildiv(Self.num_items, Self.lanes)
    """The warps that share a row."""

    @staticmethod
    def num_blocks(num_rows: Int) -> Int:
        """Returns how many blocks the rows need.

        Args:
            num_rows: The rows.

        Returns:
            The blocks.
        """
        comptime rows_per_warp = WARP_SIZE // Self.lanes
        var num_warps = ceildiv(num_rows, rows_per_warp) * Self.num_parts
        return ceildiv(num_warps, Self.threads // WARP_SIZE)

    @staticmethod
    @always_inline
    def row_and_item() -> Tuple[Int, Int]:
        """Returns a thread's row and its item, where the grid has these alone.

        Returns:
            The row and the item, each of which may be beyond the last one.
        """
        return Self.row_and_item(Int(block_idx.x))

    @staticmethod
    @always_inline
    def row_and_item(block: Int) -> Tuple[Int, Int]:
        """Returns a thread's row and its item.

        Args:
            block: The thread's block, below `num_blocks`.

        Returns:
            The row and the item, each of which may be beyond the last one.
        """
        comptime rows_per_warp = WARP_SIZE // Self.lanes
        var warp = UInt32(block) * UInt32(Self.threads // WARP_SIZE)
        warp += UInt32(thread_idx.x) // UInt32(WARP_SIZE)
        var group, part = divmod(warp, UInt32(Self.num_parts))
        var in_warp, lane = divmod(UInt32(lane_id()), UInt32(Self.lanes))
        return (
            Int(group * UInt32(rows_per_warp) + in_warp),
            Int(part * UInt32(Self.lanes) + lane),
        )
