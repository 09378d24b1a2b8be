"""Rotary embedding fused with the store into pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.sys import size_of

from .rope_store import RopeStore
from .vectors import GPU_VECTOR_BYTES, THREADS, widest_divisor


def rope_store_kernel[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    width: Int,
](
    work: RopeStore[
        dtype, kv_params, page_size, num_q_heads, rope_dim, interleaved
    ]
):
    """Moves one chunk of one head per thread.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
        width: The pairs in a chunk.

    Args:
        work: The tensors of one layer.
    """
    comptime num_chunks = work.head_dim // 2 // width
    var item = Int(block_idx.x) * THREADS + Int(thread_idx.x)
    var head_of_all, chunk = divmod(item, num_chunks)
    var row, head = divmod(head_of_all, work.num_heads)
    if row >= work.batch.num_rows():
        return
    var seq = work.batch.sequence_of(row)
    var position = work.keys.cache_length(seq) + row - work.batch.start(seq)
    work.move_chunk[width](row, seq, position, head, chunk)


def rope_store_gpu[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    //,
](
    work: RopeStore[
        dtype, kv_params, page_size, num_q_heads, rope_dim, interleaved
    ],
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the rotation and store, all in one kernel.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.

    Args:
        work: The tensors of one layer.
        total_tokens: The rows in `qkv`.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime width = widest_divisor(
        work.pairs, GPU_VECTOR_BYTES // 2 // size_of[dtype]()
    )
    comptime per_row = work.num_heads * (work.head_dim // 2 // width)
    if total_tokens == 0:
        return
    comptime kernel = rope_store_kernel[
        dtype,
        kv_params,
        page_size,
        num_q_heads,
        rope_dim,
        interleaved,
        width,
    ]
    ctx.enqueue_function[kernel](
        work,
        grid_dim=ceildiv(total_tokens * per_row, THREADS),
        block_dim=THREADS,
    )
