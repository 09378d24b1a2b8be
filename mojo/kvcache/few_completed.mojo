"""The blocks that a decode step completes, found by each warp for itself.

Few sequences are looked at by a warp's lanes at once, without shared memory and
without waiting for other warps.
"""

from max.gpu import WARP_SIZE, lane_id
from max.gpu.primitives import warp
from std.bit import count_trailing_zeros

from .block_tables import BlockTables
from .tile_place import BlockPlace

comptime ROUNDS = 4
"""The sequences that a lane looks at."""

comptime MOST_SEQUENCES = ROUNDS * WARP_SIZE
"""The sequences that a warp looks at."""


struct FewCompleted[page_size: Int, block_size: Int](TrivialRegisterPassable):
    """What up to `MOST_SEQUENCES` sequences complete, shared among a warp's lanes.

    Blocks are numbered lane by lane.

    Parameters:
        page_size: The tokens per page.
        block_size: The tokens per block.
    """

    comptime Tables = BlockTables[Self.page_size, Self.block_size]
    """The step."""

    var counts: SIMD[DType.uint32, ROUNDS]
    """The blocks that each of the lane's sequences completes."""

    var firsts: SIMD[DType.uint32, ROUNDS]
    """The place of the first one in its sequence."""

    var pages: SIMD[DType.uint32, ROUNDS]
    """The page of the first one, if there is any."""

    var end: UInt32
    """The blocks of this lane and of those before."""

    var total: Int
    """The blocks of all."""

    @always_inline
    def __init__(out self, tables: Self.Tables):
        """Looks at all sequences; every lane of the warp calls it.

        Args:
            tables: The step; it has `MOST_SEQUENCES` at most.
        """
        self.counts = 0
        self.firsts = 0
        self.pages = 0
        comptime for i in range(ROUNDS):
            var seq = i * WARP_SIZE + Int(lane_id())
            if seq < Int(tables.batch.batch_size):
                self.counts[i] = UInt32(tables.num_completed(seq))
                self.firsts[i] = UInt32(tables.num_before(seq))
        comptime for i in range(ROUNDS):
            var seq = i * WARP_SIZE + Int(lane_id())
            if self.counts[i] > 0:
                var at = tables.place(seq, Int(self.firsts[i]), layer=0, head=0)
                self.pages[i] = UInt32(at.page)
        self.end = warp.prefix_sum(self.counts.reduce_add())
        self.total = Int(warp.shuffle_idx(self.end, UInt32(WARP_SIZE - 1)))

    @always_inline
    def find(self, tables: Self.Tables, rank: Int) -> CompletedBlock:
        """Finds one of the blocks; all lanes ask for the same one.

        Args:
            tables: The step.
            rank: The block, below `total`.

        Returns:
            The block.
        """
        var rest = UInt32(rank) - (self.end - self.counts.reduce_add())
        var seq = UInt32(lane_id())
        var first = self.firsts[0]
        var page = self.pages[0]
        comptime for i in range(ROUNDS - 1):
            if rest >= self.counts[i] and Int(seq) == Int(lane_id()) + (
                i * WARP_SIZE
            ):
                rest -= self.counts[i]
                seq += UInt32(WARP_SIZE)
                first = self.firsts[i + 1]
                page = self.pages[i + 1]
        var owner = UInt32(
            count_trailing_zeros(
                warp.vote[DType.uint32](self.end > UInt32(rank))
            )
        )
        rest = warp.shuffle_idx(rest, owner)
        return CompletedBlock(
            seq=Int(warp.shuffle_idx(seq, owner)),
            index=Int(warp.shuffle_idx(first, owner) + rest),
            page=Int(warp.shuffle_idx(page, owner)),
            is_first=rest == 0,
        )


@fieldwise_init
struct CompletedBlock(TrivialRegisterPassable):
    """A block that a step completes."""

    var seq: Int
    """The sequence."""

    var index: Int
    """The block's place in it."""

    var page: Int
    """The page of the first block that the sequence completes."""

    var is_first: Bool
    """Whether this is that block."""

    @always_inline
    def place(
        self, tables: BlockTables[...], *, layer: Int, head: Int
    ) -> BlockPlace:
        """Looks up where the block is.

        Args:
            tables: The step.
            layer: The layer.
            head: The key-value head.

        Returns:
            The place.
        """
        if not self.is_first:
            return tables.place(self.seq, self.index, layer=layer, head=head)
        return BlockPlace(
            page=self.page,
            block=self.index % type_of(tables).blocks_per_page,
            layer=layer,
            head=head,
        )
