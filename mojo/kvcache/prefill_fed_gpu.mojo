"""The prefill kernel of 16-bit pages: some warps load, the others multiply.

A multiprocessor has one block, which serves one tile after the other. Two of its
warpgroups multiply; the warps of the third bring queries, keys and values to
them, ahead of time, by copies of tensor memory.

See:
    [FlashAttention-3](https://arxiv.org/abs/2407.08608).
"""

from layout.tma_async import SharedMemBarrier
from max.gpu import MAX_THREADS_PER_BLOCK_METADATA, barrier, thread_idx
from max.gpu.host import DeviceAttribute, DeviceContext, FuncAttribute
from max.gpu.intrinsics import warpgroup_reg_alloc, warpgroup_reg_dealloc
from max.gpu.memory import external_memory, fence_mbarrier_init
from std.memory import AddressSpace, stack_allocation
from std.utils.static_tuple import StaticTuple

from .overlap import await_kernels_before, overlapping_launch
from .prefill_attend import attend_to_tiles
from .prefill_boxes import Boxes, QueryBoxes, page_boxes, query_boxes
from .prefill_call import PrefillCall
from .prefill_feed import feed_keys, feed_queries, feed_values
from .prefill_ring import PLACES, Ring
from .prefill_shape import ALIGNMENT, LANES, PrefillShape
from .prefill_tickets import Tickets
from .prefill_tile import Tile

comptime LOADER_REGISTERS = 40
"""The registers of a thread that loads, of 168 that each has at the start."""

comptime MULTIPLIER_REGISTERS = 232
"""The registers of a thread that multiplies: what the others leave."""


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
    tickets: Tickets[shape],
):
    """Computes tiles, one after the other.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        queries: Describes the queries.
        keys: Describes the pool's keys.
        values: Describes its values.
        tickets: What tiles are drawn from.
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
    var tiles = stack_allocation[
        PLACES, Tile[shape], address_space=AddressSpace.SHARED
    ]()
    var ring = Ring[shape](memory, signals, tiles)
    if thread_idx.x == 0:
        ring.prepare()
        fence_mbarrier_init()
    barrier()
    await_kernels_before()
    var loader = Int(thread_idx.x) - shape.multipliers()
    if loader < 0:
        warpgroup_reg_alloc[MULTIPLIER_REGISTERS]()
        attend_to_tiles(call, ring)
    else:
        warpgroup_reg_dealloc[LOADER_REGISTERS]()
        if loader < LANES:
            feed_keys(call, keys, ring, tickets)
        elif loader < 2 * LANES:
            feed_values(call, values, ring)
        else:
            feed_queries(call, queries, ring)


def fed_prefill_gpu[
    shape: PrefillShape
](
    call: PrefillCall[shape],
    *,
    total_tokens: Int,
    workspace: Pointer[UInt32, MutUntrackedOrigin],
    ctx: DeviceContext,
) raises:
    """Launches the kernel, one block a multiprocessor.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        total_tokens: The rows in the queries, some.
        workspace: A word that is zero before a call, and after it.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime bytes = shape.shared_bytes()
    comptime kernel = fed_prefill_kernel[shape]
    var tickets = Tickets(call, total_tokens=total_tokens, drawn=workspace)
    var processors = ctx.get_attribute(DeviceAttribute.MULTIPROCESSOR_COUNT)
    ctx.enqueue_function[kernel](
        call,
        query_boxes(call, total_tokens=total_tokens, ctx=ctx),
        page_boxes[shape](call.keys, ctx),
        page_boxes[shape](call.values, ctx),
        tickets,
        grid_dim=min(tickets.total(), Int(processors)),
        block_dim=shape.threads(),
        shared_mem_bytes=bytes,
        func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(
            UInt32(bytes)
        ),
        attributes=overlapping_launch(),
    )
