"""What stores the rows of a step where summaries are made as well, on a GPU."""

from std.builtin.device_passable import DevicePassable

from .block_rows import BlockRows
from .ragged import RaggedBatch
from .shared_memory import Shared


trait BlockMover(DevicePassable, TrivialRegisterPassable):
    """Stores new rows, with blocks of threads.

    The keys of one block of tokens are moved by one thread block, which can
    hold them in shared memory, too; values, and queries that are rotated, by
    any threads.
    """

    comptime row_dtype: DType
    """The element type of the pages."""

    comptime num_heads: Int
    """The key-value heads."""

    comptime head_dim: Int
    """The elements per head."""

    comptime large_blocks: Int
    """Up to how many thread blocks with keys, for each multiprocessor, large ones
    are done sooner than small ones."""

    def hold_cached[
        heads: Int, block_size: Int, threads: Int
    ](self, rows: BlockRows, head: Int, held: Shared[Scalar[Self.row_dtype]]):
        """Reads keys of the block that were stored before.

        Parameters:
            heads: How many heads.
            block_size: The tokens per block.
            threads: The threads of the block.

        Args:
            rows: The rows that follow them.
            head: The first head.
            held: Receives the keys, `[heads, block_size, head_dim]`.
        """
        ...

    def row_offset(self, rows: BlockRows) -> Int:
        """Looks up where rows go.

        Args:
            rows: The rows; all in one page.

        Returns:
            The elements from the layer's first ones to the first row's.
        """
        ...

    def move_block[
        heads: Int, block_size: Int, threads: Int, *, kv: Int, holds: Bool
    ](
        self,
        rows: BlockRows,
        offset: Int,
        head: Int,
        held: Shared[Scalar[Self.row_dtype]],
    ):
        """Moves new keys, or values; every thread of the block calls it.

        Parameters:
            heads: How many heads.
            block_size: The tokens per block.
            threads: The threads of the block.
            kv: 0 for keys, 1 for values.
            holds: Whether shared memory receives them, too.

        Args:
            rows: The rows, at least one; all in one page.
            offset: What `row_offset` gave.
            head: The first head.
            held: The keys, `[heads, block_size, head_dim]`.
        """
        ...

    @staticmethod
    def num_blocks[threads: Int, *, values: Bool](total_tokens: Int) -> Int:
        """Returns how many thread blocks `move_rows` is to have.

        Parameters:
            threads: The threads of a block.
            values: Whether values are among what is moved.

        Args:
            total_tokens: The rows of all sequences.

        Returns:
            The blocks; none where nothing is left to move.
        """
        ...

    def move_rows[
        threads: Int, *, values: Bool
    ](self, block: Int, *, batch: RaggedBatch, total_tokens: Int):
        """Moves a thread block's share of what rows have.

        Where it goes is looked up first, then kernels before are waited for.

        Parameters:
            threads: The threads of a block.
            values: Whether values are among what is moved.

        Args:
            block: The thread block, below `num_blocks`.
            batch: The rows of each sequence.
            total_tokens: The rows of all sequences.
        """
        ...

    @staticmethod
    def num_row_blocks(total_tokens: Int) -> Int:
        """Returns how many thread blocks `store_rows` is to have.

        Args:
            total_tokens: The rows of all sequences.

        Returns:
            The blocks, of `ROW_THREADS` threads.
        """
        ...

    def store_rows(self, block: Int, *, batch: RaggedBatch, total_tokens: Int):
        """Moves all that a thread block's share of a decode step has.

        Args:
            block: The thread block, below `num_row_blocks`.
            batch: The rows of each sequence.
            total_tokens: The rows of all sequences.
        """
        ...
