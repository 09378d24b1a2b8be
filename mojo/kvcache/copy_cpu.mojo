"""Copies whole pages within the pool, all layers at once, on the CPU."""

from std.memory import unsafe_memcpy
from std.sys import size_of

from .parallel import GRAIN_BYTES, parallel_ranges


def copy_pages_cpu[
    dtype: DType, //
](
    kv_blocks: Pointer[Scalar[dtype], MutUntrackedOrigin],
    pairs: Pointer[UInt32, ImmUntrackedOrigin],
    *,
    num_pairs: Int,
    num_pages: Int,
    page_stride: Int,
) raises:
    """Copies page `pairs[i, 0]` over page `pairs[i, 1]` for every `i`.

    No page may be written twice, or be both read and written.

    Parameters:
        dtype: The element type.

    Args:
        kv_blocks: The pool.
        pairs: Source and target pages, `[num_pairs, 2]`.
        num_pairs: The pages to copy.
        num_pages: The pages in the pool, the null page not counted.
        page_stride: The elements of a page.

    Raises:
        If a task fails.
    """

    def copy_range(begin: Int, end: Int) raises {imm}:
        for pair in range(begin, end):
            var source = Int(pairs[unsafe_offset=2 * pair])
            var target = Int(pairs[unsafe_offset=2 * pair + 1])
            assert source < num_pages, "source page out of range"
            assert target < num_pages, "target page out of range"
            unsafe_memcpy(
                dest=kv_blocks.unsafe_offset(target * page_stride),
                src=kv_blocks.unsafe_offset(source * page_stride),
                count=page_stride,
            )

    parallel_ranges(
        copy_range,
        num_items=num_pairs,
        amount=num_pairs * page_stride * size_of[dtype](),
        grain=GRAIN_BYTES,
    )
