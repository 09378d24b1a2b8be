"""Which blocks a step completes, counted by a GPU's thread block.

The host does not know. A thread looks at a sequence each; of more sequences
than threads there are several rounds.
"""

from max.gpu import WARP_SIZE, barrier, thread_idx
from max.gpu.primitives import warp
from std.memory import AddressSpace, stack_allocation

from .block_tables import BlockTables
from .row_share import ROW_THREADS
from .shared_memory import Shared
from .tile_place import BlockPlace

comptime WARPS = ROW_THREADS // WARP_SIZE
"""The warps of a block."""


struct CompletedBlocks(TrivialRegisterPassable):
    """The blocks that as many sequences as there are threads complete."""

    var ends: Shared[UInt32]
    """Up to which completed block each sequence's go."""

    var firsts: Shared[UInt32]
    """The place of each sequence's first one in the sequence, and its page."""

    @always_inline
    def __init__(out self):
        """Takes its shared memory; once in a kernel."""
        self.ends = stack_allocation[
            ROW_THREADS, UInt32, address_space=AddressSpace.SHARED
        ]()
        self.firsts = stack_allocation[
            2 * ROW_THREADS, UInt32, address_space=AddressSpace.SHARED
        ]()

    @always_inline
    def count(self, tables: BlockTables[...], first_seq: Int) -> Int:
        """Sums up what the sequences from `first_seq` on complete.

        Every thread calls it; before the next round, all must have read what
        they want of this one. Where a sequence's first block is is looked up
        meanwhile.

        Args:
            tables: The step.
            first_seq: The round's first sequence.

        Returns:
            The blocks.
        """
        var warp_ends = stack_allocation[
            WARPS, UInt32, address_space=AddressSpace.SHARED
        ]()
        var thread = Int(thread_idx.x)
        var seq = first_seq + thread
        var end = UInt32(0)
        if seq < Int(tables.batch.batch_size):
            end = UInt32(tables.num_completed(seq))
            if end > 0:
                var index = tables.num_before(seq)
                var at = tables.place(seq, index, layer=0, head=0)
                self.firsts[unsafe_offset=2 * thread] = UInt32(index)
                self.firsts[unsafe_offset=2 * thread + 1] = UInt32(at.page)
        end = warp.prefix_sum(end)
        if thread % WARP_SIZE == WARP_SIZE - 1:
            warp_ends[unsafe_offset=thread // WARP_SIZE] = end
        barrier()
        var total = UInt32(0)
        comptime for i in range(WARPS):
            if i < thread // WARP_SIZE:
                end += warp_ends[unsafe_offset=i]
            total += warp_ends[unsafe_offset=i]
        self.ends[unsafe_offset=thread] = end
        barrier()
        return Int(total)

    @always_inline
    def sequence_and_rest(self, rank: Int) -> Tuple[Int, Int]:
        """Finds one of the round's blocks.

        Args:
            rank: The block, below what `count` returned.

        Returns:
            The sequence, counted from the round's first, and how many of the
            blocks that it completes come before.
        """
        var seq = 0
        var length = ROW_THREADS
        while length > 1:
            length //= 2
            if Int(self.ends[unsafe_offset=seq + length - 1]) <= rank:
                seq += length
        var start = 0
        if seq > 0:
            start = Int(self.ends[unsafe_offset=seq - 1])
        return seq, rank - start

    @always_inline
    def sequence_and_index(self, rank: Int) -> Tuple[Int, Int]:
        """Finds one of the round's blocks.

        Args:
            rank: The block, below what `count` returned.

        Returns:
            The sequence, counted from the round's first, and the block's place
            in it.
        """
        var seq, rest = self.sequence_and_rest(rank)
        return seq, Int(self.firsts[unsafe_offset=2 * seq]) + rest

    @always_inline
    def place(
        self,
        tables: BlockTables[...],
        first_seq: Int,
        rank: Int,
        *,
        layer: Int,
        head: Int,
    ) -> BlockPlace:
        """Looks up where one of the round's blocks is.

        Args:
            tables: The step.
            first_seq: The round's first sequence.
            rank: The block, below what `count` returned.
            layer: The layer.
            head: The key-value head.

        Returns:
            The place.
        """
        var seq, rest = self.sequence_and_rest(rank)
        var index = Int(self.firsts[unsafe_offset=2 * seq]) + rest
        if rest > 0:
            return tables.place(first_seq + seq, index, layer=layer, head=head)
        return BlockPlace(
            page=Int(self.firsts[unsafe_offset=2 * seq + 1]),
            block=index % type_of(tables).blocks_per_page,
            layer=layer,
            head=head,
        )
