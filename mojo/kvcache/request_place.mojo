"""Where the queries, scores and intermediate tiles of a sequence are."""

from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder

from .tiles import Tile


@fieldwise_init
struct RequestPlace(TrivialRegisterPassable):
    """A sequence of one new token, and one key-value head."""

    var seq: Int
    """The sequence."""

    var head: Int
    """The key-value head."""

    var layer: Int
    """The layer."""

    var row: Int
    """The new token's row in the ragged batch."""

    var num_blocks: Int
    """The blocks that are scored, at least one."""


struct Queries[dtype: DType, num_kv_heads: Int, group_size: Int, head_dim: Int](
    DevicePassable, TrivialRegisterPassable
):
    """The queries of a ragged batch, by the heads that share keys.

    Parameters:
        dtype: The element type.
        num_kv_heads: The key-value heads held on this device.
        group_size: The query heads that share one of them.
        head_dim: The elements per head.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime TileType = Tile[Self.dtype, Self.head_dim]
    """A row for each query head of a group."""

    var first: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin]
    """The queries, `[total_tokens, num_q_heads, head_dim]`."""

    def __init__(
        out self, first: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin]
    ):
        """Wraps the queries.

        Args:
            first: The queries, `[total_tokens, num_q_heads, head_dim]`.
        """
        self.first = first

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
        return "Queries"

    @always_inline
    def tile(self, at: RequestPlace) -> Self.TileType:
        """Returns the queries of a sequence and key-value head.

        Args:
            at: The sequence and head.

        Returns:
            A row for each query head.
        """
        var group = at.row * Self.num_kv_heads + at.head
        return {
            self.first.unsafe_offset(group * (Self.group_size * Self.head_dim))
            .unsafe_mut_cast[True]()
            .unsafe_origin_cast[MutUntrackedOrigin]()
        }


struct ScratchTiles[
    rows: Int, columns: Int, num_kv_heads: Int, is_per_block: Bool
](DevicePassable, TrivialRegisterPassable):
    """What one kernel hands to the next, or scores: float32.

    Parameters:
        rows: The rows of each tile.
        columns: The columns of each tile.
        num_kv_heads: The key-value heads held on this device.
        is_per_block: Whether each block and head has a tile, or each sequence
            and head.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime TileType = Tile[DType.float32, Self.columns]
    """One of the tiles."""

    comptime length = Self.rows * Self.columns
    """The numbers of a tile."""

    var first: Pointer[Float32, MutUntrackedOrigin]
    """`[batch_size, num_kv_heads, width, rows, columns]`."""

    var width: Int64
    """The tiles of a sequence and head."""

    def __init__(
        out self, first: Pointer[Float32, MutUntrackedOrigin], width: Int
    ):
        """Wraps the tiles.

        Args:
            first: `[batch_size, num_kv_heads, width, rows, columns]`, without
                the third axis where a tile is a sequence's.
            width: The most blocks of a sequence.
        """
        self.first = first
        self.width = Int64(width if Self.is_per_block else 1)

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
        return "ScratchTiles"

    @always_inline
    def tile(self, at: RequestPlace, index: Int = 0) -> Self.TileType:
        """Returns a tile.

        Args:
            at: The sequence and head.
            index: The block's place in the sequence; 0 where a tile is a
                sequence's.

        Returns:
            The tile.
        """
        var group = at.seq * Self.num_kv_heads + at.head
        return {
            self.first.unsafe_offset(
                (group * Int(self.width) + index) * Self.length
            )
        }
