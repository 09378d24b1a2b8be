"""Stores the keys and values of a ragged batch into pages, on the CPU."""

from kv_cache.types import KVCacheStaticParams
from std.memory import unsafe_memcpy

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .runs import parallel_page_runs


def store_cpu[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, //
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_cache: PagedKVCache[dtype, kv_params, page_size],
    batch: RaggedBatch,
) raises:
    """Copies every row behind the cached tokens of its sequence.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.

    Args:
        keys: The new keys, `[total_tokens, num_kv_heads, head_dim]`.
        values: The new values, of the same shape.
        key_cache: The layer's keys.
        value_cache: The layer's values.
        batch: The rows of each sequence.

    Raises:
        If a task fails.
    """
    comptime stride = key_cache.page_layout.token_stride

    def copy_run(row: Int, seq: Int, position: Int, run: Int) raises {imm}:
        unsafe_memcpy(
            dest=key_cache.block_paged_ptr[1](seq, position, 0),
            src=keys.unsafe_offset(row * stride),
            count=run * stride,
        )
        unsafe_memcpy(
            dest=value_cache.block_paged_ptr[1](seq, position, 0),
            src=values.unsafe_offset(row * stride),
            count=run * stride,
        )

    parallel_page_runs[after_cached=True](copy_run, key_cache, batch)
