"""Picks how a GPU's store of a layer keeps summaries up to date."""

from max.gpu.host import DeviceContext

from .block_mover import BlockMover
from .block_tables import BlockTables
from .gpu_summarisers import BlockSummariser
from .store_beside_gpu import store_beside_gpu
from .store_blocks_gpu import store_blocks_gpu


def store_summarised_gpu[
    page_size: Int, block_size: Int, //
](
    mover: Some[BlockMover],
    flow: Some[BlockSummariser],
    tables: BlockTables[page_size, block_size],
    *,
    total_tokens: Int,
    layer: Int,
    num_layers: Int,
    ctx: DeviceContext,
) raises -> Bool:
    """Stores a layer and makes summaries, where some are due.

    To be called for each layer of a step in turn.

    Parameters:
        page_size: The tokens per page.
        block_size: The tokens per block.

    Args:
        mover: Stores the rows.
        flow: What to do with a block and head.
        tables: The step.
        total_tokens: The rows of all sequences.
        layer: The layer.
        num_layers: The layers in the pools.
        ctx: The GPU's context.

    Returns:
        Whether the layer is stored; if not, no summaries are due.

    Raises:
        If the launch fails.
    """
    if total_tokens > Int(tables.batch.batch_size):
        store_blocks_gpu(
            mover,
            flow,
            tables,
            total_tokens=total_tokens,
            layer=layer,
            ctx=ctx,
        )
        return True
    if layer < num_layers - 1:
        return False
    store_beside_gpu(
        mover,
        flow,
        tables,
        total_tokens=total_tokens,
        num_layers=num_layers,
        ctx=ctx,
    )
    return True
