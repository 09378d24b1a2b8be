"""Makes the summaries of blocks that slots complete, on the CPU."""

from .parallel import parallel_ranges
from .slots import SlotRows
from .summarise_cpu import CpuSummariser, GRAIN_TILES


def summarise_slots_cpu[
    Flow: CpuSummariser, page_size: Int, block_size: Int, num_kv_heads: Int, //
](flow: Flow, rows: SlotRows[page_size, block_size, num_kv_heads]) raises:
    """Makes the summaries of the completed blocks, over the cores.

    Parameters:
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.
        num_kv_heads: The key-value heads.

    Args:
        flow: What to do with a block and head.
        rows: The slots.

    Raises:
        If a task fails.
    """

    def summarise(begin: Int, end: Int) raises {imm}:
        for tile in range(begin, end):
            if rows.completes(tile):
                flow.summarise_cpu(rows.place(tile))

    parallel_ranges(
        summarise,
        num_items=rows.num_tiles(),
        amount=rows.num_tiles(),
        grain=GRAIN_TILES * block_size,
    )
