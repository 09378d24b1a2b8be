"""The new rows of one block: what a GPU's thread block stores at once."""

from max.gpu import WARP_SIZE

from .block_tables import BlockTables
from .sequence_rows import search_with_warp

comptime SPARE = 2
"""Blocks that a sequence may have beyond its rows' full ones: at both ends."""


def most_blocks[block_size: Int](num_rows: Int, batch_size: Int) -> Int:
    """Returns how many blocks the rows of a step may lie in.

    Parameters:
        block_size: The tokens per block.

    Args:
        num_rows: The rows of all sequences.
        batch_size: The sequences.

    Returns:
        One more than the last number that `BlockRows` is to be asked for.
    """
    return num_rows // block_size + SPARE * batch_size


struct BlockRows(TrivialRegisterPassable):
    """The rows that a step adds to one block of a sequence.

    Blocks are numbered over the batch, with gaps: a sequence's begin at its
    first row's number divided by the block size, and two more for each sequence
    before it. So the sequence is found without adding up those before it.
    """

    var seq: Int
    """The sequence."""

    var index: Int
    """The block's place in the sequence."""

    var first: Int
    """The first row; it has `position`."""

    var num_rows: Int
    """The rows; none where the number is one of the gaps."""

    var position: Int
    """The first row's position in the sequence."""

    @always_inline
    def __init__[
        page_size: Int, block_size: Int, //
    ](out self, tables: BlockTables[page_size, block_size], number: Int):
        """Finds the rows; all lanes of a warp ask for the same block.

        Parameters:
            page_size: The tokens per page.
            block_size: The tokens per block.

        Args:
            tables: The step.
            number: The block, below `most_blocks`.
        """
        comptime assert WARP_SIZE == 32, "blocks are searched by 32 lanes"
        var seq = search_with_warp[block_size, SPARE](tables.batch, number)
        var start = tables.batch.start(seq)
        var skipped = number - (start // block_size + SPARE * seq)
        self = Self(tables, seq=seq, index=tables.num_before(seq) + skipped)

    @always_inline
    def __init__[
        page_size: Int, block_size: Int, //
    ](
        out self,
        tables: BlockTables[page_size, block_size],
        *,
        seq: Int,
        index: Int,
    ):
        """Reads the rows of a block.

        Parameters:
            page_size: The tokens per page.
            block_size: The tokens per block.

        Args:
            tables: The step.
            seq: The sequence.
            index: The block's place in the sequence.
        """
        var start = tables.batch.start(seq)
        var end = tables.batch.start(seq + 1)
        var cached = Int(tables.cache_lengths.unsafe_load[invariant=False](seq))
        var begin = max(index * block_size, cached)
        var behind = min((index + 1) * block_size, cached + end - start)
        self.seq = seq
        self.index = index
        self.first = start + begin - cached
        self.num_rows = max(0, behind - begin)
        self.position = begin

    @always_inline
    def completes[block_size: Int](self) -> Bool:
        """Returns whether the block is complete with these rows.

        Parameters:
            block_size: The tokens per block.

        Returns:
            True if it is.
        """
        return self.position + self.num_rows == (self.index + 1) * block_size

    @always_inline
    def num_past[block_size: Int](self) -> Int:
        """Returns how many tokens of the block were cached before.

        Parameters:
            block_size: The tokens per block.

        Returns:
            The tokens.
        """
        return self.position - self.index * block_size
