"""Stores the keys and values of a ragged batch into pages, on the CPU."""

from kv_cache.types import KVCacheStaticParams

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .run_copy import is_stream, store_run
from .runs import PageRun, parallel_page_runs


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
    var is_large = is_stream(key_cache, batch.num_rows())

    def copy(run: PageRun) raises {imm}:
        store_run(keys, key_cache, batch, run, is_stream=is_large)
        store_run(values, value_cache, batch, run, is_stream=is_large)

    parallel_page_runs[after_cached=True](copy, key_cache, batch)
