"""What a choice of blocks reads and writes for a sequence and head."""

from std.builtin.device_passable import DevicePassable


trait RankedRows(DevicePassable, TrivialRegisterPassable):
    """Rows of scored blocks, one for each sequence and head."""

    def num_first(self) -> Int:
        """Returns how many of the first blocks are always chosen.

        Returns:
            The blocks.
        """
        ...

    def num_last(self) -> Int:
        """Returns how many of the last blocks are always chosen.

        Returns:
            The blocks, at least one.
        """
        ...

    def row_scores(self, row: Int) -> Pointer[Float32, ImmUntrackedOrigin]:
        """Returns the scores of a row's blocks.

        Args:
            row: The sequence and head.

        Returns:
            The first block's score.
        """
        ...

    def row_target(self, row: Int) -> Pointer[UInt32, MutUntrackedOrigin]:
        """Returns where a row's chosen blocks go.

        Args:
            row: The sequence and head.

        Returns:
            The first one's place.
        """
        ...

    def row_block(self, row: Int, block: Int) -> UInt32:
        """Returns the id of a row's block.

        Args:
            row: The sequence and head.
            block: The block, counted from the sequence's first.

        Returns:
            The id.
        """
        ...
