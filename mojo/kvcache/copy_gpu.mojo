"""Copies whole pages, all layers at once, on a GPU."""

from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.sys import align_of

from .vectors import gpu_width

comptime COPY_THREADS = 128
"""The threads of a block that copies a part of a page."""

comptime VECTORS_PER_THREAD = 2
"""The vectors that a thread asks for before it writes any.

More of them keep more pages open at once than the memory likes."""


def copy_pages_kernel[
    dtype: DType, width: Int
](
    target: Pointer[Scalar[dtype], MutUntrackedOrigin],
    source: Pointer[Scalar[dtype], MutUntrackedOrigin],
    pairs: Pointer[UInt32, ImmUntrackedOrigin],
    num_targets: Int64,
    num_sources: Int64,
    page_stride: Int64,
    parts: UInt32,
):
    """Moves a few vectors of one page pair per thread.

    Parameters:
        dtype: The element type.
        width: The elements per vector.

    Args:
        target: The pages to write to.
        source: The pages to read, which may be the same ones.
        pairs: Source and target pages, `[num_pairs, 2]`.
        num_targets: How many pages may be written to.
        num_sources: How many pages may be read.
        page_stride: The elements of a page.
        parts: The blocks that share a page.
    """
    comptime align = width * align_of[Scalar[dtype]]()
    comptime Vector = SIMD[dtype, width]
    var pair, part = divmod(UInt32(block_idx.x), parts)
    var read_page = Int(pairs[unsafe_offset=2 * Int(pair)])
    var written_page = Int(pairs[unsafe_offset=2 * Int(pair) + 1])
    assert read_page < Int(num_sources), "source page out of range"
    assert written_page < Int(num_targets), "target page out of range"
    var stride = Int(page_stride)
    var first = Int(part) * COPY_THREADS * VECTORS_PER_THREAD
    first += Int(thread_idx.x)
    var vectors = Array[Vector, VECTORS_PER_THREAD](fill=0)
    comptime for i in range(VECTORS_PER_THREAD):
        var element = (first + i * COPY_THREADS) * width
        if element < stride:
            vectors[i] = source.unsafe_load[width=width, alignment=align](
                read_page * stride + element
            )
    comptime for i in range(VECTORS_PER_THREAD):
        var element = (first + i * COPY_THREADS) * width
        if element < stride:
            target.unsafe_store[alignment=align](
                written_page * stride + element, vectors[i]
            )


def copy_pages_gpu[
    dtype: DType, //, plane_stride: Int
](
    target: Pointer[Scalar[dtype], MutUntrackedOrigin],
    source: Pointer[Scalar[dtype], MutUntrackedOrigin],
    pairs: Pointer[UInt32, ImmUntrackedOrigin],
    *,
    num_pairs: Int,
    num_targets: Int,
    num_sources: Int,
    page_stride: Int,
    ctx: DeviceContext,
) raises:
    """Launches the copy of a list of pages, all in one kernel.

    No page may be written twice, or be both read and written.

    Parameters:
        dtype: The element type.
        plane_stride: A number of elements that divides the page.

    Args:
        target: The pages to write to.
        source: The pages to read, which may be the same ones.
        pairs: Source and target pages, `[num_pairs, 2]`.
        num_pairs: The pages to copy.
        num_targets: How many pages may be written to.
        num_sources: How many pages may be read.
        page_stride: The elements of a page.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime width = gpu_width[dtype](plane_stride)
    if num_pairs == 0:
        return
    comptime kernel = copy_pages_kernel[dtype, width]
    var parts = ceildiv(page_stride, COPY_THREADS * VECTORS_PER_THREAD * width)
    ctx.enqueue_function[kernel](
        target,
        source,
        pairs,
        Int64(num_targets),
        Int64(num_sources),
        Int64(page_stride),
        UInt32(parts),
        grid_dim=parts * num_pairs,
        block_dim=COPY_THREADS,
    )
