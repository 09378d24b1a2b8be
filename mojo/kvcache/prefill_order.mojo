"""Which tiles a block of the prefill kernel serves, and in which order."""

from max.gpu import block_idx, grid_dim
from std.math import ceildiv

from .prefill_call import PrefillCall
from .prefill_shape import PrefillShape
from .prefill_tile import Tile

comptime NEAR_BYTES = 32 << 20
"""The keys and values that stay in the L2 cache of a Hopper GPU, in bytes."""


@fieldwise_init
struct TileOrder[shape: PrefillShape](TrivialRegisterPassable):
    """The tiles of all key-value heads, one after the other.

    Blocks take tiles by turns, forth and back: the first ones see the most keys,
    and so each block has its share of them. Long contexts are served some heads
    at a time, whose keys and values then stay in the cache.

    Parameters:
        shape: What the kernel is compiled for.
    """

    var tiles: Int32
    """The tiles of one key-value head."""

    var heads: Int32
    """The key-value heads that are served at once; they divide all heads."""

    @staticmethod
    def heads_at_once(context: Int) -> Int:
        """Returns how many key-value heads to serve at once.

        Args:
            context: The tokens of the longest context.

        Returns:
            The heads.
        """
        comptime num_heads = Self.shape.kv_params.num_heads
        comptime token_bytes = 2 * 2 * Self.shape.head_dim()
        for heads in range(num_heads, 1, -1):
            var is_near = heads * context * token_bytes <= NEAR_BYTES
            if num_heads % heads == 0 and is_near:
                return heads
        return 1

    @always_inline
    def rounds(self) -> Int:
        """Returns how many tiles a block has at most.

        Returns:
            The tiles.
        """
        return Int(ceildiv(self._total(), Int32(grid_dim.x)))

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
        if number >= self._total():
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

    @always_inline
    def _total(self) -> Int32:
        return self.tiles * Int32(Self.shape.kv_params.num_heads)
