"""Makes the summaries of the blocks that a step completes, on the CPU."""

from .block_tables import BlockTables
from .parallel import parallel_ranges
from .tile_place import BlockPlace

comptime GRAIN_TILES = 8
"""The fewest blocks under a head to summarise that are worth a task."""


trait CpuSummariser(ImplicitlyCopyable):
    """What a compiled flow does with one block and head."""

    def summarise_cpu(self, at: BlockPlace):
        """Reads the block's keys and values, and writes its summaries.

        Args:
            at: The block.
        """
        ...


def summarise_cpu[
    Flow: CpuSummariser, page_size: Int, block_size: Int, //
](
    flow: Flow,
    tables: BlockTables[page_size, block_size],
    *,
    num_layers: Int,
    num_kv_heads: Int,
) raises:
    """Makes all layers' summaries of the completed blocks, over the cores.

    Parameters:
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.

    Args:
        flow: What to do with a block and head.
        tables: The step.
        num_layers: The layers in the pools.
        num_kv_heads: The key-value heads held on this device.

    Raises:
        If a task fails.
    """
    var per_block = num_layers * num_kv_heads
    for seq in range(Int(tables.batch.batch_size)):
        var first = tables.num_before(seq)

        def summarise(begin: Int, end: Int) raises {imm}:
            for item in range(begin, end):
                var index, plane = divmod(item, per_block)
                var layer, head = divmod(plane, num_kv_heads)
                flow.summarise_cpu(
                    tables.place(seq, first + index, layer=layer, head=head)
                )

        var num_items = tables.num_completed(seq) * per_block
        parallel_ranges(
            summarise, num_items=num_items, amount=num_items, grain=GRAIN_TILES
        )
