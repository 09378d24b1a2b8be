"""Which tiles a block of the prefill kernel serves, and in which order."""

from max.gpu import block_idx, grid_dim
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.math import ceildiv

from .prefill_call import PrefillCall
from .prefill_shape import PrefillShape
from .prefill_tile import Tile

comptime NEAR_BYTES = 32 << 20
"""The keys and values that stay in the L2 cache of a Hopper GPU, in bytes."""


struct TileOrder[shape: PrefillShape](DevicePassable, TrivialRegisterPassable):
    """The tiles of all key-value heads, one after the other.

    Blocks take tiles by turns, forth and back: the first ones see the most keys,
    and so each block has its share of them. Long contexts are served some heads
    at a time, whose keys and values then stay in the cache.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    var tiles: Int32
    """The tiles of one key-value head."""

    var heads: Int32
    """The key-value heads that are served at once; they divide all heads."""

    def __init__(out self, call: PrefillCall[Self.shape], *, total_tokens: Int):
        """Orders the tiles of a call.

        Args:
            call: The tensors.
            total_tokens: The rows in the queries.
        """
        comptime num_heads = Self.shape.kv_params.num_heads
        comptime token_bytes = 2 * 2 * Self.shape.head_dim()
        self.tiles = Int32(
            Tile[Self.shape].most_tiles(
                total_tokens=total_tokens,
                batch_size=Int(call.batch.batch_size),
            )
        )
        var context = Int(call.keys.max_context_length())
        var heads = num_heads
        while heads > 1 and (
            num_heads % heads or heads * context * token_bytes > NEAR_BYTES
        ):
            heads -= 1
        self.heads = Int32(heads)

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
        return "TileOrder"

    @always_inline
    def total(self) -> Int:
        """Returns how many tiles there are, of all heads.

        Returns:
            The tiles, some of them without rows.
        """
        return Int(self.tiles) * Self.shape.kv_params.num_heads

    @always_inline
    def rounds(self) -> Int:
        """Returns how many tiles a block has at most.

        Returns:
            The tiles.
        """
        return Int(ceildiv(UInt32(self.total()), UInt32(grid_dim.x)))

    @always_inline
    def tile(
        self, call: PrefillCall[Self.shape], round: Int
    ) -> Tile[Self.shape]:
        """Returns one of the block's tiles.

        Args:
            call: The tensors.
            round: Which of its tiles.

        Returns:
            The tile; one without rows if there is none.
        """
        var blocks = Int32(grid_dim.x)
        var way = Int32(block_idx.x)
        if round % 2 == 1:
            way = blocks - 1 - way
        var number = Int32(round) * blocks + way
        if Int(number) >= self.total():
            return Tile[Self.shape]()
        var some, place = divmod(number, self.tiles * self.heads)
        var of_head, head = divmod(place, self.heads)
        return Tile[Self.shape](
            call.batch,
            call.keys.cache_lengths.ptr,
            call.rules,
            number=Int(self.tiles - 1 - of_head),
            head=Int(some * self.heads + head),
        )
