"""Paged attention of prompts, and of their parts, on Hopper's tensor cores.

One block serves rows of one sequence under one key-value head: pairs of a new
token and a query head. Keys and values go from their pages into shared memory
block by block, each while the one before it is attended to. Here all warps load,
and all multiply: codes of 8 bits are turned into halves on the way, and large
heads leave no room for more. What is left goes to the kernel whose warps share
the work otherwise.

See:
    [FlashAttention-2](https://arxiv.org/abs/2307.08691).
"""

from max.gpu import MAX_THREADS_PER_BLOCK_METADATA, barrier, block_idx
from max.gpu.host import DeviceContext, FuncAttribute
from max.gpu.memory import (
    async_copy_wait_all,
    external_memory,
    fence_async_view_proxy,
)
from std.memory import AddressSpace, stack_allocation
from std.utils.static_tuple import StaticTuple

from .prefill_block import attend_to_block
from .prefill_call import PrefillCall
from .prefill_fed_gpu import fed_prefill_gpu
from .prefill_queries import load_queries
from .prefill_rows import RowSums
from .prefill_shape import ALIGNMENT, PrefillShape
from .prefill_stage import Stages
from .prefill_tile import Tile
from .prefill_write import write_rows


@__llvm_metadata(
    MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](
        Int32(shape.threads())
    ),
    `nvvm.minctasm`=SIMDLength(1),
)
def prefill_kernel[shape: PrefillShape](call: PrefillCall[shape], tiles: Int32):
    """Computes a tile per block.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        tiles: The tiles of one key-value head.
    """
    var memory = external_memory[
        UInt8, address_space=AddressSpace.SHARED, alignment=ALIGNMENT
    ]()
    var places = stack_allocation[
        4 * shape.chunks(), Int64, address_space=AddressSpace.SHARED
    ]()
    var of_head, head = divmod(Int(block_idx.x), shape.kv_params.num_heads)
    var tile = Tile[shape](
        call.batch,
        call.keys.cache_lengths.ptr,
        call.rules,
        number=Int(tiles) - 1 - of_head,
        head=head,
    )
    if tile.is_empty():
        return
    var stages = Stages(call, tile, memory, places)
    load_queries(call, tile, memory)
    stages.note_page(0, stages.page_of(0))
    stages.note_page(1, stages.page_of(1))
    barrier()
    stages.load(0)
    var sums = RowSums(call, tile)
    for block in range(tile.blocks()):
        async_copy_wait_all()
        comptime if shape.is_quantized():
            barrier()
            stages.turn_codes(block)
        fence_async_view_proxy()
        barrier()
        stages.load(block + 1)
        var page = stages.page_of(block + 2)
        attend_to_block(sums, stages, block)
        stages.note_page(block + 2, page)
    write_rows(sums, call, tile, stages.queries)


def prefill_gpu[
    shape: PrefillShape
](
    call: PrefillCall[shape],
    *,
    total_tokens: Int,
    workspace: Pointer[UInt32, MutUntrackedOrigin],
    ctx: DeviceContext,
) raises:
    """Launches the kernel that serves these sizes best.

    Without a warpgroup that feeds, it has one block a tile and key-value head;
    the tiles that see most keys come first.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        total_tokens: The rows in the queries.
        workspace: Memory that stays between calls, zeros before the first.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    if total_tokens == 0:
        return
    comptime if shape.is_fed():
        fed_prefill_gpu(
            call, total_tokens=total_tokens, workspace=workspace, ctx=ctx
        )
        return
    comptime bytes = shape.shared_bytes()
    comptime kernel = prefill_kernel[shape]
    var tiles = Tile[shape].most_tiles(
        total_tokens=total_tokens, batch_size=Int(call.batch.batch_size)
    )
    ctx.enqueue_function[kernel](
        call,
        Int32(tiles),
        grid_dim=tiles * shape.kv_params.num_heads,
        block_dim=shape.threads(),
        shared_mem_bytes=bytes,
        func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(
            UInt32(bytes)
        ),
    )
