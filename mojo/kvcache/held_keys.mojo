"""Keys of a block in a GPU's shared memory: where, and those cached before."""

from max.gpu import thread_idx
from std.sys import align_of

from .block_rows import BlockRows
from .cache import PagedKVCache
from .overlap import load_after_wait
from .shared_memory import Shared
from .vectors import gpu_width

comptime HELD_AHEAD = 4
"""The vectors that a thread asks for before it holds any."""


@always_inline
def vector_place[vectors: Int, stride: Int, width: Int](item: Int) -> Int:
    """Returns where a vector is, behind the first row's first one.

    Parameters:
        vectors: The vectors of a row.
        stride: The elements from row to row.
        width: The elements of a vector.

    Args:
        item: The vector, counted over the rows.

    Returns:
        The elements before it.
    """
    var row, vector = divmod(UInt32(item), UInt32(vectors))
    return Int(row) * stride + Int(vector) * width


@always_inline
def held_place[block_size: Int, head_dim: Int](row: Int, element: Int) -> Int:
    """Returns where an element of a row's heads is held.

    Parameters:
        block_size: The tokens per block.
        head_dim: The elements per head.

    Args:
        row: The token's place in the block.
        element: The element, counted over the heads.

    Returns:
        The element's place in `[heads, block_size, head_dim]`.
    """
    var head, dim = divmod(UInt32(element), UInt32(head_dim))
    return (Int(head) * block_size + row) * head_dim + Int(dim)


@always_inline
def hold_cached[
    dtype: DType, //, heads: Int, block_size: Int, threads: Int
](
    cache: PagedKVCache[dtype, ...],
    rows: BlockRows,
    head: Int,
    held: Shared[Scalar[dtype]],
):
    """Reads the keys of a block that come before its new rows.

    Parameters:
        dtype: The element type.
        heads: How many heads.
        block_size: The tokens per block.
        threads: The threads of the block.

    Args:
        cache: The layer's keys.
        rows: The new rows.
        head: The first head.
        held: Receives the keys, `[heads, block_size, head_dim]`.
    """
    comptime head_dim = cache.kv_params.head_size
    comptime stride = cache.page_layout.token_stride
    comptime width = gpu_width[dtype](head_dim)
    comptime align = width * align_of[Scalar[dtype]]()
    comptime vectors = heads * head_dim // width
    var past = rows.num_past[block_size]()
    if past == 0:
        return
    var source = cache.blocks.ptr.unsafe_offset(
        cache.token_offset(rows.seq, rows.position - past) + head * head_dim
    )
    var num_items = past * vectors
    for first in range(Int(thread_idx.x), num_items, threads * HELD_AHEAD):
        var some = Array[SIMD[dtype, width], HELD_AHEAD](fill=0)
        comptime for i in range(HELD_AHEAD):
            var item = first + i * threads
            if item < num_items:
                some[i] = load_after_wait[width](
                    source.unsafe_offset(
                        vector_place[vectors, stride, width](item)
                    )
                )
        comptime for i in range(HELD_AHEAD):
            var item = first + i * threads
            if item < num_items:
                var row, vector = divmod(UInt32(item), UInt32(vectors))
                held.unsafe_store[alignment=align](
                    held_place[block_size, head_dim](
                        Int(row), Int(vector) * width
                    ),
                    some[i],
                )
