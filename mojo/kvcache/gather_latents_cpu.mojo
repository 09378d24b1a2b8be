"""Gathers pages into contiguous latents, on the CPU."""

from kv_cache.types import KVCacheStaticParams
from std.memory import unsafe_memcpy

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .runs import parallel_page_runs


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
    comptime stride = cache.page_layout.token_stride

    def copy_run(row: Int, seq: Int, position: Int, run: Int) raises {imm}:
        unsafe_memcpy(
            dest=latents.unsafe_offset(row * stride),
            src=cache.block_paged_ptr[1](seq, position, 0),
            count=run * stride,
        )

    parallel_page_runs[after_cached=False](copy_run, cache, context)
