"""Which blocks a sequence has, and which of them a step completes.

A block is complete when all its tokens are cached. Of `c` tokens those are the
first `c // block_size`; a step that adds `n` completes the blocks from there up
to `(c + n) // block_size`. All of it is read on the device: a graph that was
captured once is right for every later batch.
"""

from std.builtin.device_passable import DeviceTypeEncoder

from .block_source import BlockSource
from .ragged import RaggedBatch
from .tile_place import BlockPlace


struct BlockTables[page_size: Int, block_size: Int](BlockSource):
    """The tables that describe a step, read in blocks.

    Parameters:
        page_size: The tokens per page.
        block_size: The tokens per block; it divides the page size.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime blocks_per_page = Self.page_size // Self.block_size
    """The blocks of a page."""

    var batch: RaggedBatch
    """The new rows of each sequence."""

    var cache_lengths: Pointer[UInt32, ImmUntrackedOrigin]
    """Tokens cached before this step, `[batch_size]`."""

    var lookup_table: Pointer[UInt32, ImmUntrackedOrigin]
    """The pages of each sequence, `[batch_size, num_columns]`."""

    var num_columns: Int64
    """The columns of the lookup table."""

    var num_pages: Int64
    """The pages in the pool, the null page not counted."""

    def __init__(
        out self,
        batch: RaggedBatch,
        cache_lengths: Pointer[UInt32, ImmUntrackedOrigin],
        lookup_table: Pointer[UInt32, ImmUntrackedOrigin],
        *,
        num_columns: Int,
        num_pages: Int,
    ):
        """Wraps the tables.

        Args:
            batch: The new rows of each sequence.
            cache_lengths: Tokens cached before this step, `[batch_size]`.
            lookup_table: The pages, `[batch_size, num_columns]`.
            num_columns: The columns of the lookup table.
            num_pages: The pages in the pool, the null page not counted.
        """
        comptime assert (
            Self.page_size % Self.block_size == 0
        ), "blocks must fill a page"
        self.batch = batch
        self.cache_lengths = cache_lengths
        self.lookup_table = lookup_table
        self.num_columns = Int64(num_columns)
        self.num_pages = Int64(num_pages)

    def _to_device_type(
        self, mut encoder: Some[DeviceTypeEncoder], target: MutOpaquePointer[_]
    ):
        encoder.encode(self, target)

    @staticmethod
    def get_type_name() -> String:
        """Returns the name of this type.

        Returns:
            The name.
        """
        return "BlockTables"

    @always_inline
    def width(self) -> Int:
        """Returns the most blocks that a sequence can have.

        Returns:
            The blocks.
        """
        return Int(self.num_columns) * Self.blocks_per_page

    @always_inline
    def num_sequences(self) -> Int:
        """Returns how many sequences there are.

        Returns:
            The sequences.
        """
        return Int(self.batch.batch_size)

    @always_inline
    def first_tile(self, item: Int) -> Int:
        """Returns where the tiles of a sequence and head begin.

        Args:
            item: The sequence times the heads, plus the head.

        Returns:
            The index of its first block's tile among all tiles.
        """
        return item * self.width()

    @always_inline
    def num_before(self, seq: Int) -> Int:
        """Returns how many blocks of a sequence were complete before the step.

        Args:
            seq: The sequence.

        Returns:
            The blocks.
        """
        var cached = self.cache_lengths.unsafe_load[invariant=False](seq)
        return Int(cached // UInt32(Self.block_size))

    @always_inline
    def num_completed(self, seq: Int) -> Int:
        """Returns how many blocks of a sequence this step completes.

        Args:
            seq: The sequence.

        Returns:
            The blocks.
        """
        var offsets = self.batch.offsets.unsafe_offset(seq)
        var added = (
            offsets.unsafe_load[invariant=False](1)
            - offsets.unsafe_load[invariant=False]()
        )
        var cached = self.cache_lengths.unsafe_load[invariant=False](seq)
        var after = (cached + added) // UInt32(Self.block_size)
        return Int(after - cached // UInt32(Self.block_size))

    @always_inline
    def num_scored(self, seq: Int) -> Int:
        """Returns how many blocks of a sequence are scored.

        Args:
            seq: The sequence.

        Returns:
            Those that were complete before the step; none unless the sequence
            has exactly one new token.
        """
        var offsets = self.batch.offsets.unsafe_offset(seq)
        var first = offsets.unsafe_load[invariant=False]()
        var end = offsets.unsafe_load[invariant=False](1)
        # No load waits for another one.
        var num_blocks = self.num_before(seq)
        return num_blocks if end - first == 1 else 0

    @always_inline
    def query_row(self, seq: Int) -> Int:
        """Returns the row of a sequence's new token.

        Args:
            seq: The sequence; it has exactly one new token.

        Returns:
            The row in the ragged batch.
        """
        return Int(self.batch.offsets.unsafe_load[invariant=False](seq))

    @always_inline
    def place(
        self, seq: Int, index: Int, *, layer: Int, head: Int
    ) -> BlockPlace:
        """Looks up where a block of a sequence is.

        Args:
            seq: The sequence.
            index: The block's place in the sequence.
            layer: The layer.
            head: The key-value head.

        Returns:
            The place.
        """
        var column, block = divmod(UInt32(index), UInt32(Self.blocks_per_page))
        assert Int(column) < Int(
            self.num_columns
        ), "block beyond the lookup table"
        var page = Int(
            self.lookup_table.unsafe_load[invariant=False](
                seq * Int(self.num_columns) + Int(column)
            )
        )
        assert page < Int(self.num_pages), "page out of range"
        return BlockPlace(page=page, block=Int(block), layer=layer, head=head)
