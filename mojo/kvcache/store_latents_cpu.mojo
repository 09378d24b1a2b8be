"""Stores the latents of a ragged batch into pages, on the CPU."""

from kv_cache.types import KVCacheStaticParams
from std.memory import unsafe_memcpy

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .runs import parallel_page_runs


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
    comptime stride = cache.page_layout.token_stride

    def copy_run(row: Int, seq: Int, position: Int, run: Int) raises {imm}:
        unsafe_memcpy(
            dest=cache.block_paged_ptr[1](seq, position, 0),
            src=latents.unsafe_offset(row * stride),
            count=run * stride,
        )

    parallel_page_runs[after_cached=True](copy_run, cache, batch)
