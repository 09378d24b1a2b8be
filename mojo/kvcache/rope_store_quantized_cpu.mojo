"""Rotary embedding fused with the store into quantised pages, on the CPU."""

from kv_cache.types import KVCacheStaticParams
from std.sys import size_of

from .parallel import GRAIN_BYTES, parallel_ranges
from .rope_store_quantized import RopeStoreQuantized
from .scales import Quantization
from .vectors import cpu_width


def rope_store_quantized_cpu[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    //,
](
    work: RopeStoreQuantized[
        dtype,
        kv_dtype,
        kv_params,
        page_size,
        quantization,
        num_q_heads,
        rope_dim,
        interleaved,
    ]
) raises:
    """Rotates, quantises and stores on the cores of the CPU.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.
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
        var kept = List[Scalar[dtype]](unsafe_uninit_length=work.head_dim)
        var head_of_row = kept.unsafe_ptr()
        for row in range(begin, end):
            var seq = work.batch.sequence_of(row)
            var first = work.batch.start(seq)
            var position = work.pages.keys.cache_length(seq) + row - first
            comptime if not work.PagesType.scale_layout.is_per_token:
                if row == first or position % page_size == 0:
                    for head in range(kv_params.num_heads):
                        work.pages.keep_given_scale[0](seq, position, head)
                        work.pages.keep_given_scale[1](seq, position, head)
            for head in range(work.num_heads):
                comptime for chunk in range(num_chunks):
                    work.turn_chunk[width](
                        head_of_row, row, position, head, chunk
                    )
                var key_head = head - num_q_heads
                var value_head = key_head - kv_params.num_heads
                if value_head >= 0:
                    work.pages.keep_head[1](
                        head_of_row, seq, position, value_head
                    )
                elif key_head >= 0:
                    work.pages.keep_head[0](
                        head_of_row, seq, position, key_head
                    )
        _ = kept^

    parallel_ranges(
        move_rows,
        num_items=work.batch.num_rows(),
        amount=work.batch.num_rows() * row_bytes,
        grain=GRAIN_BYTES,
    )
