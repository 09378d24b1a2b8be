"""Gathers pages into contiguous latents, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext
from std.sys import align_of

from .cache import PagedKVCache
from .overlap import (
    await_kernels_before,
    load_after_wait,
    overlapping_launch,
)
from .ragged import RaggedBatch
from .row_share import ROW_THREADS, RowShare
from .sequence_rows import RowGuess
from .vectors import gpu_width


def gather_latents_kernel[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, width: Int
](
    latents: Pointer[Scalar[dtype], MutUntrackedOrigin],
    cache: PagedKVCache[dtype, kv_params, page_size],
    context: RaggedBatch,
    context_tokens: Int32,
):
    """Moves one vector of a latent per lane.

    Parameters:
        dtype: The element type.
        kv_params: One head, and the elements of a latent.
        page_size: The tokens per page.
        width: The elements per vector.

    Args:
        latents: Receives the latents, `[context_tokens, head_dim]`.
        cache: The layer's latents.
        context: The output rows of each sequence, from its position 0.
        context_tokens: The rows in `latents`.
    """
    comptime stride = cache.page_layout.token_stride
    comptime align = width * align_of[Scalar[dtype]]()
    comptime Share = RowShare[stride // width]
    comptime Guess = RowGuess[
        dtype,
        kv_params,
        page_size,
        after_cached=False,
        is_warp_wide=Share.is_warp_wide,
        is_decode=False,
    ]
    await_kernels_before()
    var row, vector = Share.row_and_item()
    if row >= Int(context_tokens) or vector >= Share.num_items:
        return
    var guess = Guess(cache, context, row)
    var rows = guess.sequence(cache, context, row)
    if not rows.holds(row):
        return
    var element = vector * width
    var source = guess.token_offset(cache, rows, row) + element
    var latent = load_after_wait[width](cache.blocks.ptr.unsafe_offset(source))
    latents.unsafe_store[alignment=align](row * stride + element, latent)


def gather_latents_gpu[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, //
](
    latents: Pointer[Scalar[dtype], MutUntrackedOrigin],
    cache: PagedKVCache[dtype, kv_params, page_size],
    context: RaggedBatch,
    context_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the gather.

    Parameters:
        dtype: The element type.
        kv_params: One head, and the elements of a latent.
        page_size: The tokens per page.

    Args:
        latents: Receives the latents, `[context_tokens, head_dim]`.
        cache: The layer's latents.
        context: The output rows of each sequence, from its position 0.
        context_tokens: The rows in `latents`.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime stride = cache.page_layout.token_stride
    comptime width = gpu_width[dtype](stride)
    comptime Share = RowShare[stride // width]
    if context_tokens == 0 or context.batch_size == 0:
        return
    comptime kernel = gather_latents_kernel[dtype, kv_params, page_size, width]
    ctx.enqueue_function[kernel](
        latents,
        cache,
        context,
        Int32(context_tokens),
        grid_dim=Share.num_blocks(context_tokens),
        block_dim=ROW_THREADS,
        attributes=overlapping_launch(),
    )
