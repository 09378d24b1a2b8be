"""Gathers pages into contiguous latents, on the CPU."""

from kv_cache.types import KVCacheStaticParams

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .run_copy import gather_run, is_stream
from .runs import PageRun, parallel_page_runs


def gather_latents_cpu[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, //
](
    latents: Pointer[Scalar[dtype], MutUntrackedOrigin],
    cache: PagedKVCache[dtype, kv_params, page_size],
    context: RaggedBatch,
) raises:
    """Copies the first tokens of every sequence out of its pages.

    Parameters:
        dtype: The element type.
        kv_params: One head, and the elements of a latent.
        page_size: The tokens per page.

    Args:
        latents: Receives the latents, `[context_tokens, head_dim]`.
        cache: The layer's latents.
        context: The output rows of each sequence, from its position 0.

    Raises:
        If a task fails.
    """
    var is_large = is_stream(cache, context.num_rows())

    def copy(run: PageRun) raises {imm}:
        gather_run(latents, cache, context, run, is_stream=is_large)

    parallel_page_runs[after_cached=False](copy, cache, context)
