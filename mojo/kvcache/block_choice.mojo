"""Which blocks of a sequence are chosen by given scores, as a rule.

A sequence of one new token at position `p` has `p // block_size + 1` blocks;
the last of them has the new token. The first and the last blocks are always
chosen, of those between the ones of the highest scores.

See:
    [Quest](https://arxiv.org/abs/2406.10774), for attending to chosen blocks.
"""

from std.builtin.device_passable import DeviceTypeEncoder

from .overlap import load_after_wait
from .ragged import RaggedBatch
from .ranked_rows import RankedRows


@fieldwise_init
struct ChoiceShape(TrivialRegisterPassable):
    """What a choice of blocks is compiled for."""

    var page_size: Int
    """The tokens per page."""

    var block_size: Int
    """The tokens of a block; it divides the page size."""

    var num_kv_heads: Int
    """The key-value heads held on this device."""

    var reserved_first: Int
    """The first blocks, which are always chosen."""

    var reserved_last: Int
    """The last blocks, which are always chosen; at least one."""

    var top_k: Int
    """Blocks that are chosen beside these, at least."""


struct BlockChoice[shape: ChoiceShape](RankedRows):
    """The tensors of one choice, and what the rule says of them.

    Parameters:
        shape: What the choice is compiled for.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime blocks_per_page = Self.shape.page_size // Self.shape.block_size
    """The blocks of a page."""

    comptime first = Self.shape.reserved_first
    """The first blocks, which are always chosen."""

    comptime last = Self.shape.reserved_last
    """The last blocks, which are always chosen."""

    comptime reserved = Self.first + Self.last
    """The blocks that are chosen whatever their scores are."""

    var block_ids: Pointer[UInt32, MutUntrackedOrigin]
    """Receives the chosen blocks, `[batch_size, num_kv_heads, width]`."""

    var sparse_lengths: Pointer[UInt32, MutUntrackedOrigin]
    """Receives the tokens of the chosen blocks, `[batch_size]`."""

    var scores: Pointer[Float32, ImmUntrackedOrigin]
    """The scores of complete blocks, `[batch_size, num_kv_heads, width]`."""

    var batch: RaggedBatch
    """The rows of each sequence."""

    var cache_lengths: Pointer[UInt32, ImmUntrackedOrigin]
    """Tokens cached before this step, `[batch_size]`."""

    var lookup_table: Pointer[UInt32, ImmUntrackedOrigin]
    """The pages of each sequence, `[batch_size, num_columns]`."""

    var ratios: Pointer[Float32, ImmUntrackedOrigin]
    """Which part of its blocks a sequence may attend to, `[batch_size]`."""

    var num_columns: Int64
    """The columns of the lookup table."""

    def __init__(
        out self,
        *,
        block_ids: Pointer[UInt32, MutUntrackedOrigin],
        sparse_lengths: Pointer[UInt32, MutUntrackedOrigin],
        scores: Pointer[Float32, ImmUntrackedOrigin],
        batch: RaggedBatch,
        cache_lengths: Pointer[UInt32, ImmUntrackedOrigin],
        lookup_table: Pointer[UInt32, ImmUntrackedOrigin],
        ratios: Pointer[Float32, ImmUntrackedOrigin],
        num_columns: Int,
    ):
        """Collects the tensors.

        Args:
            block_ids: Receives the chosen blocks.
            sparse_lengths: Receives the tokens of the chosen blocks.
            scores: The scores of complete blocks.
            batch: The rows of each sequence.
            cache_lengths: Tokens cached before this step.
            lookup_table: The pages of each sequence.
            ratios: Which part of its blocks a sequence may attend to.
            num_columns: The columns of the lookup table.
        """
        self.block_ids = block_ids
        self.sparse_lengths = sparse_lengths
        self.scores = scores
        self.batch = batch
        self.cache_lengths = cache_lengths
        self.lookup_table = lookup_table
        self.ratios = ratios
        self.num_columns = Int64(num_columns)

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
        return "BlockChoice"

    @always_inline
    def width(self) -> Int:
        """Returns the most blocks of a sequence.

        Returns:
            The blocks.
        """
        return Int(self.num_columns) * Self.blocks_per_page

    @always_inline
    def num_rows(self) -> Int:
        """Returns how many choices there are.

        Returns:
            The key-value heads of all sequences.
        """
        return Int(self.batch.batch_size) * Self.shape.num_kv_heads

    @always_inline
    def position(self, seq: Int) -> Int:
        """Returns the position of a sequence's one new token.

        Args:
            seq: The sequence.

        Returns:
            The position; -1 for other numbers of new tokens.
        """
        var offsets = self.batch.offsets.unsafe_offset(seq)
        var first = load_after_wait[1](offsets)
        var next = load_after_wait[1](offsets.unsafe_offset(1))
        var position = Int(
            load_after_wait[1](self.cache_lengths.unsafe_offset(seq))
        )
        assert (
            next != first + 1
            or position < Int(self.num_columns) * Self.shape.page_size
        ), "token beyond the lookup table"
        return position if next == first + 1 else -1

    @always_inline
    def num_chosen(self, seq: Int, num_blocks: Int) -> Int:
        """Returns how many blocks a sequence attends to under each head.

        Args:
            seq: The sequence.
            num_blocks: The blocks of the sequence, the last one included.

        Returns:
            The blocks.
        """
        var ratio = load_after_wait[1](self.ratios.unsafe_offset(seq))
        var part = Float32(num_blocks) * ratio
        var wanted = 0
        if part >= Float32(num_blocks):
            wanted = num_blocks
        elif part > 0:
            wanted = Int(part)
        return min(num_blocks, max(wanted, Self.shape.top_k + Self.reserved))

    @always_inline
    def length(self, position: Int, num_chosen: Int) -> Int:
        """Returns the tokens of chosen blocks: all but the last are whole.

        Args:
            position: The position of the new token.
            num_chosen: The chosen blocks, at least one.

        Returns:
            The tokens, the new one included.
        """
        comptime size = Self.shape.block_size
        return (num_chosen - 1) * size + position % size + 1

    @always_inline
    def num_first(self) -> Int:
        """Returns how many of the first blocks are always chosen.

        Returns:
            The blocks.
        """
        return Self.first

    @always_inline
    def num_last(self) -> Int:
        """Returns how many of the last blocks are always chosen.

        Returns:
            The blocks, at least one.
        """
        return Self.last

    @always_inline
    def row_scores(self, row: Int) -> Pointer[Float32, ImmUntrackedOrigin]:
        """Returns the scores of a row's blocks.

        Args:
            row: The sequence and head.

        Returns:
            The first block's score.
        """
        return self.scores.unsafe_offset(row * self.width())

    @always_inline
    def row_target(self, row: Int) -> Pointer[UInt32, MutUntrackedOrigin]:
        """Returns where a row's chosen blocks go.

        Args:
            row: The sequence and head.

        Returns:
            The first one's place.
        """
        return self.block_ids.unsafe_offset(row * self.width())

    @always_inline
    def row_block(self, row: Int, block: Int) -> UInt32:
        """Returns the id of a row's block.

        Args:
            row: The sequence and head.
            block: The block, counted from the sequence's first.

        Returns:
            The id.
        """
        return self.block_id(row // Self.shape.num_kv_heads, block)

    @always_inline
    def block_id(self, seq: Int, block: Int) -> UInt32:
        """Returns the id of a sequence's block.

        Args:
            seq: The sequence.
            block: The block, counted from the sequence's first.

        Returns:
            The id.
        """
        comptime per_page = UInt32(Self.blocks_per_page)
        var column, part = divmod(UInt32(block), per_page)
        var page = load_after_wait[1](
            self.lookup_table.unsafe_offset(
                seq * Int(self.num_columns) + Int(column)
            )
        )
        return page * per_page + part
