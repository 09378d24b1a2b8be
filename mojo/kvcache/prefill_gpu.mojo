"""Paged attention of prompts, and of their parts, on Hopper's tensor cores.

One block serves rows of one sequence under one key-value head: pairs of a new
token and a query head. Keys and values go from their pages into shared memory
block by block, each while the one before it is attended to.

See:
    [FlashAttention-2](https://arxiv.org/abs/2307.08691).
"""

from max.gpu import (
    MAX_THREADS_PER_BLOCK_METADATA,
    barrier,
    block_idx,
    thread_idx,
)
from max.gpu.intrinsics import warpgroup_reg_alloc, warpgroup_reg_dealloc
from max.gpu.host import DeviceAttribute, DeviceBuffer, DeviceContext, FuncAttribute
from max.gpu.host.nvidia.tma import create_tma_descriptor
from std.utils.index import IndexList
from max.gpu.memory import (
    async_copy_wait_all,
    external_memory,
    fence_async_view_proxy,
)
from std.memory import AddressSpace, stack_allocation
from std.utils.static_tuple import StaticTuple

from std.math import ceildiv
from layout.tma_async import SharedMemBarrier
from max.gpu.memory import fence_mbarrier_init
from .prefill_attend import attend_to_tiles
from .prefill_feed import Boxes, QueryBoxes, feed_blocks, feed_queries
from .overlap import await_kernels_before, overlapping_launch
from .prefill_order import TileOrder
from .prefill_ring import KEYS, PLACES, VALUES, Ring
from .prefill_call import PrefillCall
from .prefill_queries import load_queries
from .prefill_rows import RowSums
from .prefill_shape import ALIGNMENT, LANES, PrefillShape
from .prefill_stage import Stages
from .prefill_tile import Tile


@__llvm_metadata(
    MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](
        Int32(shape.threads())
    ),
    `nvvm.minctasm`=SIMDLength(shape.blocks),
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
        sums.attend(stages, block)
        stages.note_page(block + 2, page)
    sums.write(call, tile)


@__llvm_metadata(
    MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](
        Int32(shape.threads())
    ),
    `nvvm.minctasm`=SIMDLength(1),
)
@__llvm_arg_metadata(queries, `nvvm.grid_constant`)
@__llvm_arg_metadata(keys, `nvvm.grid_constant`)
@__llvm_arg_metadata(values, `nvvm.grid_constant`)
def fed_prefill_kernel[
    shape: PrefillShape
](
    call: PrefillCall[shape],
    queries: QueryBoxes[shape],
    keys: Boxes[shape],
    values: Boxes[shape],
    tiles: Int32,
    heads: Int32,
):
    """Computes tiles, one after the other, fed by one warpgroup.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        tiles: The tiles of one key-value head.
    """
    var memory = external_memory[
        UInt8, address_space=AddressSpace.SHARED, alignment=ALIGNMENT
    ]()
    var signals = stack_allocation[
        Ring[shape].signals,
        SharedMemBarrier,
        address_space=AddressSpace.SHARED,
        alignment=8,
    ]()
    var places = stack_allocation[
        PLACES, Tile[shape], address_space=AddressSpace.SHARED
    ]()
    var ring = Ring[shape](memory, signals, places)
    if thread_idx.x == 0:
        ring.prepare()
        fence_mbarrier_init()
    barrier()
    await_kernels_before()
    var warps = Int(thread_idx.x) // LANES - shape.multipliers() // LANES
    if warps < 0:
        warpgroup_reg_alloc[232]()
        attend_to_tiles(call, ring)
    else:
        warpgroup_reg_dealloc[40]()
        var order = TileOrder[shape](tiles=tiles, heads=heads)
        if warps == 0:
            feed_blocks[KEYS](call, keys, ring, order)
        elif warps == 1:
            feed_blocks[VALUES](call, values, ring, order)
        else:
            feed_queries(call, queries, ring, order)


def query_boxes[
    shape: PrefillShape
](
    call: PrefillCall[shape], total_tokens: Int, ctx: DeviceContext
) raises -> QueryBoxes[shape]:
    """Describes the queries."""
    comptime group = shape.group()
    comptime row = shape.num_q_heads * shape.head_dim()
    return {
        create_tma_descriptor[shape.dtype, 3, shape.swizzle()](
            DeviceBuffer(ctx, call.queries.unsafe_mut_cast[True](), 1, owning=False),
            IndexList[3](total_tokens, shape.num_q_heads, shape.head_dim()),
            IndexList[3](row, shape.head_dim(), 1),
            IndexList[3](max(1, shape.rows() // group), group, shape.panel()),
        )
    }


def prefill_gpu[
    shape: PrefillShape
](call: PrefillCall[shape], *, total_tokens: Int, ctx: DeviceContext) raises:
    """Launches the kernel, one block a tile and key-value head.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        total_tokens: The rows in the queries.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    if total_tokens == 0:
        return
    comptime bytes = shape.shared_bytes()
    comptime kernel = prefill_kernel[shape]
    var tiles = Tile[shape].most_tiles(
        total_tokens=total_tokens, batch_size=Int(call.batch.batch_size)
    )
    comptime if shape.is_fed():
        comptime fed_kernel = fed_prefill_kernel[shape]
        var blocks = ctx.get_attribute(DeviceAttribute.MULTIPROCESSOR_COUNT)
        ctx.enqueue_function[fed_kernel](
            call,
            query_boxes(call, total_tokens, ctx),
            call.keys.create_tma_tile[
                shape.box_rows(),
                shape.panel(),
                shape.swizzle(),
                is_k_major=True,
            ](ctx),
            call.values.create_tma_tile[
                shape.box_rows(),
                shape.panel(),
                shape.swizzle(),
                is_k_major=True,
            ](ctx),
            Int32(tiles),
            Int32(TileOrder[shape].heads_at_once(Int(call.keys.max_context_length()))),
            attributes=overlapping_launch(),
            grid_dim=min(tiles * shape.kv_params.num_heads, Int(blocks)),
            block_dim=shape.threads(),
            shared_mem_bytes=bytes,
            func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(
                UInt32(bytes)
            ),
        )
        return
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
