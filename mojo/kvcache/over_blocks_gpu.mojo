"""Computes over the scored blocks of each sequence, on a GPU.

A thread block has one element of the tiles of a sequence and head: they are few,
and were written just before, so that they are read from the caches.
"""

from max.gpu import WARP_SIZE, barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.primitives import warp
from std.bit import log2_floor
from std.memory import AddressSpace, stack_allocation
from std.utils.numerics import neg_inf

from .block_source import BlockSource
from .over_blocks import MAX, OverBlocks, SOFTMAX
from .overlap import await_kernels_before, overlapping_launch
from .shared_memory import Shared

comptime THREADS = 256
"""The threads of a block."""

comptime WARPS = THREADS // WARP_SIZE
"""The warps of a block."""


def over_blocks_kernel[
    Tables: BlockSource, num_kv_heads: Int, work: OverBlocks
](
    source: Pointer[Float32, MutUntrackedOrigin],
    result: Pointer[Float32, MutUntrackedOrigin],
    tables: Tables,
):
    """Computes one element of a sequence and head.

    Parameters:
        Tables: What finds the sequences' blocks.
        num_kv_heads: The key-value heads held on this device.
        work: What is computed.

    Args:
        source: The elements, `[batch_size, num_kv_heads, width, length]`.
        result: Receives the result, of the same shape, or without the third
            axis.
        tables: The step.
    """
    await_kernels_before()
    var sums = stack_allocation[
        WARPS, Float32, address_space=AddressSpace.SHARED
    ]()
    var seq, head = Int(block_idx.z), Int(block_idx.y)
    var item = seq * num_kv_heads + head
    var num_blocks = tables.num_scored(seq)
    if num_blocks == 0:
        return
    var first = tables.first_tile(item) * work.length + Int(block_idx.x)
    var x = source.unsafe_offset(first)
    var largest = neg_inf[DType.float32]()
    comptime if work.kind == SOFTMAX:
        for index in range(Int(thread_idx.x), num_blocks, THREADS):
            largest = max(
                largest,
                x.unsafe_load[invariant=False](index * work.length)
                * work.scale,
            )
        comptime largest_of = OverBlocks(MAX, 1, 1)
        largest = _merge[largest_of](largest, sums)
    var sum = work.first_sum()
    for index in range(Int(thread_idx.x), num_blocks, THREADS):
        sum = work.add(
            sum, x.unsafe_load[invariant=False](index * work.length), largest
        )
    sum = _merge[work](sum, sums)
    comptime if work.is_per_block():
        var y = result.unsafe_offset(first)
        for index in range(Int(thread_idx.x), num_blocks, THREADS):
            var at = index * work.length
            y[unsafe_offset=at] = work.of_block(
                x.unsafe_load[invariant=False](at), sum, largest
            )
    else:
        if thread_idx.x == 0:
            result[
                unsafe_offset=item * work.length + Int(block_idx.x)
            ] = work.of_all(sum, num_blocks)


@always_inline
def _merge[work: OverBlocks](own: Float32, sums: Shared[Float32]) -> Float32:
    """Returns the sum of what all threads of the block have."""
    var sum = own
    comptime for step in range(log2_floor(WARP_SIZE)):
        sum = work.merge(sum, warp.shuffle_xor(sum, UInt32(1 << step)))
    barrier()
    if Int(thread_idx.x) % WARP_SIZE == 0:
        sums[unsafe_offset=Int(thread_idx.x) // WARP_SIZE] = sum
    barrier()
    sum = sums[unsafe_offset=0]
    comptime for i in range(1, WARPS):
        sum = work.merge(sum, sums[unsafe_offset=i])
    return sum


def over_blocks_gpu[
    Tables: BlockSource, //, num_kv_heads: Int, work: OverBlocks
](
    source: Pointer[Float32, MutUntrackedOrigin],
    result: Pointer[Float32, MutUntrackedOrigin],
    tables: Tables,
    ctx: DeviceContext,
) raises:
    """Launches the computation for the sequences of one new token.

    Parameters:
        Tables: What finds the sequences' blocks.
        num_kv_heads: The key-value heads held on this device.
        work: What is computed.

    Args:
        source: The elements, `[batch_size, num_kv_heads, width, length]`.
        result: Receives the result, of the same shape, or without the third
            axis.
        tables: The step.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime kernel = over_blocks_kernel[Tables, num_kv_heads, work]
    if tables.num_sequences() == 0:
        return
    ctx.enqueue_function[kernel](
        source,
        result,
        tables,
        grid_dim=(work.length, num_kv_heads, tables.num_sequences()),
        block_dim=THREADS,
        attributes=overlapping_launch(),
    )
