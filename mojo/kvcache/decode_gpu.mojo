"""Paged attention of one new token per sequence, at the speed of the memory.

Decode reads every cached key and value once: only that counts. All chunks of
keys of the batch are split evenly over the GPU's multiprocessors; each warp
loads its chunks ahead, and multiplies them on the tensor cores.

See:
    [FlashDecoding](https://pytorch.org/blog/flash-decoding/), for splitting
    the context, and [Stream-K](https://arxiv.org/abs/2301.03598), for shares
    of equal size.
"""

from max.gpu import barrier
from max.gpu.host import DeviceAttribute, DeviceContext, FuncAttribute
from max.gpu.memory import async_copy_wait_group, external_memory
from max.gpu.sync import syncwarp
from std.memory import AddressSpace, stack_allocation

from .decode_call import DecodeCall, warp_index
from .decode_merge import Merger
from .decode_shape import LANES, DecodeShape
from .decode_split import Run
from .decode_stage import Loader, next_stage
from .decode_warp import WarpSums
from .overlap import await_kernels_before, overlapping_launch


def decode_kernel[
    shape: DecodeShape
](call: DecodeCall[shape], most_shares: Int32):
    """Computes what a block's share of all chunks is a part of.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        most_shares: The most shares of the chunks; the blocks over the teams.
    """
    comptime ways = shape.warps() // shape.heads()
    comptime pending = Int32(shape.stages() - 2)
    await_kernels_before()
    var shared = external_memory[
        UInt8, address_space=AddressSpace.SHARED, alignment=128
    ]()
    var is_last = stack_allocation[
        1, UInt32, address_space=AddressSpace.SHARED
    ]()
    var told = shared.unsafe_offset(
        shape.warps() * shape.stages() * shape.stage_bytes()
    ).unsafe_bitcast[Float32]()
    var stages = shared.unsafe_offset(
        warp_index() * shape.stages() * shape.stage_bytes()
    )
    var run = Run[shape](call.keys.cache_lengths.ptr, call.batch, call.rules)
    var split = run.start(
        call.share(), most_shares=Int(most_shares), per_share=2 * ways
    )
    var loader = Loader(call, run, stages)
    comptime for _ in range(shape.stages() - 1):
        loader.load()
    var stage = 0
    while run.is_open():
        var sums = WarpSums(call, run)
        var first = run.begin + warp_index() // shape.heads()
        for chunk in range(first, run.end, ways):
            async_copy_wait_group(pending)
            syncwarp()
            loader.load()
            sums.attend(call, run, chunk, stages.unsafe_offset(stage))
            stage = next_stage[shape](stage)
        sums.tell(told.unsafe_offset(warp_index() * shape.part_length()))
        barrier()
        Merger(call, run).merge(told, split, is_last)
        barrier()
        run.next()


def decode_gpu[
    shape: DecodeShape
](call: DecodeCall[shape], ctx: DeviceContext) raises:
    """Launches the kernel, one block a multiprocessor.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors; the workspace's first words are zeros.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime bytes = shape.shared_bytes()
    comptime kernel = decode_kernel[shape]
    var processors = ctx.get_attribute(DeviceAttribute.MULTIPROCESSOR_COUNT)
    var blocks = min(Int(processors), call.workspace.most_blocks)
    ctx.enqueue_function[kernel](
        call,
        Int32(blocks // shape.teams()),
        grid_dim=blocks,
        block_dim=shape.warps() * LANES,
        shared_mem_bytes=bytes,
        attributes=overlapping_launch(),
        func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(
            UInt32(bytes)
        ),
    )
