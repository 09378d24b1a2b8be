"""Gathers pages into contiguous keys and values, on the CPU."""

from kv_cache.types import KVCacheStaticParams
from std.memory import unsafe_memcpy

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .runs import parallel_page_runs


def gather_cpu[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, //
](
    keys: Pointer[Scalar[dtype], MutUntrackedOrigin],
    values: Pointer[Scalar[dtype], MutUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_cache: PagedKVCache[dtype, kv_params, page_size],
    context: RaggedBatch,
) raises:
    """Copies the first tokens of every sequence out of its pages.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.

    Args:
        keys: Receives the keys, `[context_tokens, num_kv_heads, head_dim]`.
        values: Receives the values, of the same shape.
        key_cache: The layer's keys.
        value_cache: The layer's values.
        context: The output rows of each sequence, from its position 0.

    Raises:
        If a task fails.
    """
    comptime stride = key_cache.page_layout.token_stride

    def copy_run(row: Int, seq: Int, position: Int, run: Int) raises {imm}:
        unsafe_memcpy(
            dest=keys.unsafe_offset(row * stride),
            src=key_cache.block_paged_ptr[1](seq, position, 0),
            count=run * stride,
        )
        unsafe_memcpy(
            dest=values.unsafe_offset(row * stride),
            src=value_cache.block_paged_ptr[1](seq, position, 0),
            count=run * stride,
        )

    parallel_page_runs[after_cached=False](copy_run, key_cache, context)
