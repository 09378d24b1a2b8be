"""Which blocks of listed segments are chosen by given scores.

The rule is that of `block_choice`; the budget is read when a step runs.
"""

from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder

from .ranked_rows import RankedRows
from .segments import Segments


@fieldwise_init
struct Budget(TrivialRegisterPassable):
    """How many blocks are chosen."""

    var reserved_first: Int32
    """The first blocks, which are always chosen."""

    var reserved_last: Int32
    """The last blocks, which are always chosen; at least one."""

    var top_k: Int32
    """Blocks that are chosen beside these, at least."""

    var ratio: Float32
    """The part of a segment's blocks that is chosen, at least."""


@fieldwise_init
struct SegmentChoice(RankedRows):
    """The tensors of one choice."""

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    var chosen: Pointer[UInt32, MutUntrackedOrigin]
    """Receives the chosen blocks of all segments, `[num_places]`."""

    var num_places: Int64
    """The room for chosen blocks."""

    var bounds: Pointer[Int32, ImmUntrackedOrigin]
    """Where those of each segment begin, `[num_segments + 1]`."""

    var scores: Pointer[Float32, MutUntrackedOrigin]
    """The scores of all blocks, `[num_ids]`; those of last ones are not
    read."""

    var segments: Segments
    """The blocks to choose from."""

    var budget: Budget
    """How many are chosen."""

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
        return "SegmentChoice"

    @always_inline
    def num_first(self) -> Int:
        """Returns how many of the first blocks are always chosen.

        Returns:
            The blocks.
        """
        return Int(self.budget.reserved_first)

    @always_inline
    def num_last(self) -> Int:
        """Returns how many of the last blocks are always chosen.

        Returns:
            The blocks, at least one.
        """
        return Int(self.budget.reserved_last)

    @always_inline
    def num_chosen(self, row: Int, num_blocks: Int) -> Int:
        """Returns how many blocks of a segment are chosen.

        Args:
            row: The segment.
            num_blocks: Its blocks.

        Returns:
            The blocks.
        """
        var part = Float32(num_blocks) * self.budget.ratio
        var wanted = 0
        if part >= Float32(num_blocks):
            wanted = num_blocks
        elif part > 0:
            wanted = Int(part)
        var fixed = Int(self.budget.top_k) + self.num_first() + self.num_last()
        var count = min(num_blocks, max(wanted, fixed))
        var begin = Int(self.bounds.unsafe_load[invariant=False](row))
        var end = Int(self.bounds.unsafe_load[invariant=False](row + 1))
        assert end - begin == count, "room for other than the chosen blocks"
        assert 0 <= begin and end <= Int(self.num_places), "no room for blocks"
        return count

    @always_inline
    def row_scores(self, row: Int) -> Pointer[Float32, ImmUntrackedOrigin]:
        """Returns the scores of a segment's blocks.

        Args:
            row: The segment.

        Returns:
            The first block's score.
        """
        return (
            self.scores.unsafe_offset(self.segments.first_tile(row))
            .unsafe_mut_cast[False]()
            .unsafe_origin_cast[ImmUntrackedOrigin]()
        )

    @always_inline
    def row_target(self, row: Int) -> Pointer[UInt32, MutUntrackedOrigin]:
        """Returns where a segment's chosen blocks go.

        Args:
            row: The segment.

        Returns:
            The first one's place.
        """
        return self.chosen.unsafe_offset(
            Int(self.bounds.unsafe_load[invariant=False](row))
        )

    @always_inline
    def row_block(self, row: Int, block: Int) -> UInt32:
        """Returns the id of a segment's block.

        Args:
            row: The segment.
            block: The block's place in it.

        Returns:
            The id.
        """
        return UInt32(self.segments.id(row, block))
