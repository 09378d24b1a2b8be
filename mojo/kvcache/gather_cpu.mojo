"""Gathers pages into contiguous keys and values, on the CPU."""

from kv_cache.types import KVCacheStaticParams

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .run_copy import gather_run, is_stream
from .runs import PageRun, parallel_page_runs


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
    var is_large = is_stream(key_cache, context.num_rows())

    def copy(run: PageRun) raises {imm}:
        gather_run(keys, key_cache, context, run, is_stream=is_large)
        gather_run(values, value_cache, context, run, is_stream=is_large)

    parallel_page_runs[after_cached=False](copy, key_cache, context)
