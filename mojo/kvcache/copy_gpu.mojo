"""Copies whole pages within the pool, all layers at once, on a GPU."""

from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.sys import align_of

from .vectors import THREADS, gpu_width

comptime VECTORS_PER_THREAD = 8
"""The vectors that one GPU thread moves."""


def copy_pages_kernel[
    dtype: DType, width: Int
](
    kv_blocks: Pointer[Scalar[dtype], MutUntrackedOrigin],
    pairs: Pointer[UInt32, ImmUntrackedOrigin],
    num_pages: Int64,
    page_stride: Int64,
):
    """Moves a few vectors of one page pair per thread.

    Parameters:
        dtype: The element type.
        width: The elements per vector.

    Args:
        kv_blocks: The pool.
        pairs: Source and target pages, `[num_pairs, 2]`.
        num_pages: The pages in the pool, the null page not counted.
        page_stride: The elements of a page.
    """
    comptime align = width * align_of[Scalar[dtype]]()
    var pair = Int(block_idx.y)
    var source = Int(pairs[unsafe_offset=2 * pair])
    var target = Int(pairs[unsafe_offset=2 * pair + 1])
    assert source < Int(num_pages), "source page out of range"
    assert target < Int(num_pages), "target page out of range"
    var stride = Int(page_stride)
    var first = Int(block_idx.x) * THREADS * VECTORS_PER_THREAD
    comptime for i in range(VECTORS_PER_THREAD):
        var element = (first + i * THREADS + Int(thread_idx.x)) * width
        if element < stride:
            kv_blocks.unsafe_store[alignment=align](
                target * stride + element,
                kv_blocks.unsafe_load[width=width, alignment=align](
                    source * stride + element
                ),
            )


def copy_pages_gpu[
    dtype: DType, //, plane_stride: Int
](
    kv_blocks: Pointer[Scalar[dtype], MutUntrackedOrigin],
    pairs: Pointer[UInt32, ImmUntrackedOrigin],
    *,
    num_pairs: Int,
    num_pages: Int,
    page_stride: Int,
    ctx: DeviceContext,
) raises:
    """Launches the copy of a list of pages, all in one kernel.

    Parameters:
        dtype: The element type.
        plane_stride: A number of elements that divides the page.

    Args:
        kv_blocks: The pool.
        pairs: Source and target pages, `[num_pairs, 2]`.
        num_pairs: The pages to copy.
        num_pages: The pages in the pool, the null page not counted.
        page_stride: The elements of a page.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime width = gpu_width[dtype](plane_stride)
    if num_pairs == 0:
        return
    comptime kernel = copy_pages_kernel[dtype, width]
    var per_block = THREADS * VECTORS_PER_THREAD * width
    ctx.enqueue_function[kernel](
        kv_blocks,
        pairs,
        Int64(num_pages),
        Int64(page_stride),
        grid_dim=(ceildiv(page_stride, per_block), num_pairs),
        block_dim=THREADS,
    )
