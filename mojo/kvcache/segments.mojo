"""Which blocks each request and head has, where their ids are listed.

Each request and key-value head has a segment of one list of block ids; the last
block of a segment, in which the next token is, is not scored. A segment is a
sequence of one head here: tensors have a row for each block id.
"""

from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder

from .block_source import BlockSource
from .request_place import RequestPlace
from .tile_place import BlockPlace
from .tiles import Tile


struct Segments(BlockSource):
    """The blocks of each request and key-value head."""

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    var bounds: Pointer[Int32, ImmUntrackedOrigin]
    """Where each segment begins, `[num_segments + 1]`."""

    var ids: Pointer[Int32, ImmUntrackedOrigin]
    """The block ids of all segments, `[num_ids]`."""

    var num_segments: Int64
    """How many requests times heads there are."""

    var num_ids: Int64
    """How many block ids there are, at least those of all segments."""

    var num_rows: Int64
    """The rows of every field."""

    def __init__(
        out self,
        bounds: Pointer[Int32, ImmUntrackedOrigin],
        ids: Pointer[Int32, ImmUntrackedOrigin],
        *,
        num_segments: Int,
        num_ids: Int,
        num_rows: Int,
    ):
        """Wraps the list.

        Args:
            bounds: Where each segment begins, `[num_segments + 1]`.
            ids: The block ids of all segments, `[num_ids]`.
            num_segments: How many requests times heads there are.
            num_ids: How many block ids there are.
            num_rows: The rows of every field.
        """
        self.bounds = bounds
        self.ids = ids
        self.num_segments = Int64(num_segments)
        self.num_ids = Int64(num_ids)
        self.num_rows = Int64(num_rows)

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
        return "Segments"

    @always_inline
    def num_sequences(self) -> Int:
        """Returns how many segments there are.

        Returns:
            The segments.
        """
        return Int(self.num_segments)

    @always_inline
    def width(self) -> Int:
        """Returns the most blocks that a segment can have.

        Returns:
            The blocks.
        """
        return Int(self.num_ids)

    @always_inline
    def first_tile(self, item: Int) -> Int:
        """Returns where the tiles of a segment begin.

        Args:
            item: The segment.

        Returns:
            The index of its first block among all blocks.
        """
        return Int(self.bounds.unsafe_load[invariant=False](item))

    @always_inline
    def num_blocks(self, segment: Int) -> Int:
        """Returns how many blocks a segment has.

        Args:
            segment: The segment.

        Returns:
            The blocks, the last one included.
        """
        var begin = self.first_tile(segment)
        var end = self.first_tile(segment + 1)
        assert 0 <= begin and begin <= end, "segments must not overlap"
        assert end <= Int(self.num_ids), "segment beyond the block ids"
        return end - begin

    @always_inline
    def num_scored(self, seq: Int) -> Int:
        """Returns how many blocks of a segment are scored.

        Args:
            seq: The segment.

        Returns:
            All but the last.
        """
        return max(0, self.num_blocks(seq) - 1)

    @always_inline
    def query_row(self, seq: Int) -> Int:
        """Returns the row of a segment's queries.

        Args:
            seq: The segment.

        Returns:
            The row.
        """
        return seq

    @always_inline
    def id(self, segment: Int, index: Int) -> Int:
        """Looks up a block of a segment.

        Args:
            segment: The segment.
            index: The block's place in it.

        Returns:
            The block's id.
        """
        var row = Int(
            self.ids.unsafe_load[invariant=False](
                self.first_tile(segment) + index
            )
        )
        assert 0 <= row and row < Int(self.num_rows), "block id out of range"
        return row

    @always_inline
    def place(
        self, seq: Int, index: Int, *, layer: Int, head: Int
    ) -> BlockPlace:
        """Looks up where a block is, as the only block of a page.

        Args:
            seq: The segment.
            index: The block's place in it.
            layer: Not looked at: fields have one layer.
            head: Not looked at: a segment has one head.

        Returns:
            The place.
        """
        return BlockPlace(page=self.id(seq, index), block=0, layer=0, head=0)


struct SegmentTiles[rows: Int, columns: Int, is_per_block: Bool](
    DevicePassable, TrivialRegisterPassable
):
    """What one kernel hands to the next, or scores: float32.

    Parameters:
        rows: The rows of each tile.
        columns: The columns of each tile.
        is_per_block: Whether each block has a tile, or each segment.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime TileType = Tile[DType.float32, Self.columns]
    """One of the tiles."""

    comptime length = Self.rows * Self.columns
    """The numbers of a tile."""

    var first: Pointer[Float32, MutUntrackedOrigin]
    """`[num_ids, rows, columns]`, or `[num_segments, rows, columns]`."""

    var segments: Segments
    """Where the blocks of each segment begin."""

    def __init__(
        out self,
        first: Pointer[Float32, MutUntrackedOrigin],
        segments: Segments,
    ):
        """Wraps the tiles.

        Args:
            first: A tile for each block id, or for each segment.
            segments: Where the blocks of each segment begin.
        """
        self.first = first
        self.segments = segments

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
        return "SegmentTiles"

    @always_inline
    def tile(self, at: RequestPlace, index: Int = 0) -> Self.TileType:
        """Returns a tile.

        Args:
            at: The segment.
            index: The block's place in it; 0 where a tile is a segment's.

        Returns:
            The tile.
        """
        var tile = at.seq
        comptime if Self.is_per_block:
            tile = self.segments.first_tile(at.seq) + index
        return {self.first.unsafe_offset(tile * Self.length)}
