"""Stores the latents of a ragged batch into pages, on the CPU."""

from kv_cache.types import KVCacheStaticParams

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .run_copy import is_stream, store_run
from .runs import PageRun, parallel_page_runs


def store_latents_cpu[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, //
](
    latents: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    cache: PagedKVCache[dtype, kv_params, page_size],
    batch: RaggedBatch,
) raises:
    """Copies every row behind the cached tokens of its sequence.

    Parameters:
        dtype: The element type.
        kv_params: One head, and the elements of a latent.
        page_size: The tokens per page.

    Args:
        latents: The new latents, `[total_tokens, head_dim]`.
        cache: The layer's latents.
        batch: The rows of each sequence.

    Raises:
        If a task fails.
    """
    var is_large = is_stream(cache, batch.num_rows())

    def copy(run: PageRun) raises {imm}:
        store_run(latents, cache, batch, run, is_stream=is_large)

    parallel_page_runs[after_cached=True](copy, cache, batch)
