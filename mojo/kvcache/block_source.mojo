"""What finds the blocks that are scored, whichever layout they are in."""

from std.builtin.device_passable import DevicePassable


trait BlockSource(DevicePassable, TrivialRegisterPassable):
    """The sequences of a step, and how many of their blocks are scored."""

    def num_sequences(self) -> Int:
        """Returns how many sequences there are.

        Returns:
            The sequences.
        """
        ...

    def width(self) -> Int:
        """Returns the most blocks that a sequence can have.

        Returns:
            The blocks.
        """
        ...

    def first_tile(self, item: Int) -> Int:
        """Returns where the tiles of a sequence and head begin.

        Args:
            item: The sequence times the heads, plus the head.

        Returns:
            The index of its first block's tile among all tiles.
        """
        ...

    def num_scored(self, seq: Int) -> Int:
        """Returns how many blocks of a sequence are scored.

        Args:
            seq: The sequence.

        Returns:
            The blocks.
        """
        ...

    def query_row(self, seq: Int) -> Int:
        """Returns the row of a sequence's queries.

        Args:
            seq: The sequence.

        Returns:
            The row.
        """
        ...


def total_scored(tables: Some[BlockSource]) -> Int:
    """Returns how many blocks of all sequences are scored.

    Args:
        tables: The sequences.

    Returns:
        The blocks.
    """
    var total = 0
    for seq in range(tables.num_sequences()):
        total += tables.num_scored(seq)
    return total
