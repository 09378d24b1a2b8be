"""Brings keys near before they are read, on a GPU."""

from max.gpu import thread_idx
from std.math import ceildiv
from std.sys import size_of
from std.sys._assembly import inlined_assembly

from .cache import PagedKVCache

comptime LINE_BYTES = 128
"""What one request brings."""


@always_inline
def bring_near[
    dtype: DType, //, block_size: Int, threads: Int
](
    cache: PagedKVCache[dtype, ...],
    *,
    page: Int,
    block: Int,
    layers_before: Int,
    head: Int,
):
    """Asks for the keys of a block and head, and waits for none.

    Parameters:
        dtype: The element type.
        block_size: The tokens per block.
        threads: The threads of the thread block, which all call it.

    Args:
        cache: The keys of a layer.
        page: The page.
        block: The block's place in the page.
        layers_before: How many layers the keys lie before the cache's.
        head: The head.
    """
    comptime layout = cache.page_layout
    comptime head_dim = cache.kv_params.head_size
    comptime line = LINE_BYTES // size_of[dtype]()
    comptime lines = ceildiv(head_dim, line)
    var first = cache.blocks.ptr.unsafe_offset(
        cache.token_offset_in(page, block * block_size)
        + head * head_dim
        - layers_before * layout.plane_stride
    )
    for item in range(Int(thread_idx.x), block_size * lines, threads):
        var row, piece = divmod(UInt32(item), UInt32(lines))
        inlined_assembly[
            "prefetch.global.L2 [$0];",
            NoneType,
            constraints="l",
            has_side_effect=True,
        ](
            first.unsafe_offset(
                Int(row) * layout.token_stride + Int(piece) * line
            )
        )
