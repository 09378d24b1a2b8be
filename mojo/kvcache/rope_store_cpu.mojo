"""Rotary embedding fused with the store into pages, on the CPU."""

from kv_cache.types import KVCacheStaticParams
from std.sys import size_of

from .parallel import GRAIN_BYTES, parallel_ranges
from .rope_store import RopeStore
from .vectors import cpu_width


def rope_store_cpu[
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
    ]
) raises:
    """Rotates and stores on the cores of the CPU.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.

    Args:
        work: The tensors of one layer.

    Raises:
        If a task fails.
    """
    comptime width = cpu_width[DType.float32](work.pairs)
    comptime num_chunks = work.head_dim // 2 // width
    comptime row_bytes = work.num_heads * work.head_dim * size_of[dtype]()

    def move_rows(begin: Int, end: Int) raises {imm}:
        for row in range(begin, end):
            var seq = work.batch.sequence_of(row)
            var position = (
                work.keys.cache_length(seq) + row - work.batch.start(seq)
            )
            for head in range(work.num_heads):
                comptime for chunk in range(num_chunks):
                    work.move_chunk[width](row, seq, position, head, chunk)

    parallel_ranges(
        move_rows,
        num_items=work.batch.num_rows(),
        amount=work.batch.num_rows() * row_bytes,
        grain=GRAIN_BYTES,
    )
