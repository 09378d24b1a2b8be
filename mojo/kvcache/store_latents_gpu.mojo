"""Stores the latents of a ragged batch into pages, on a GPU."""

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


def store_latents_kernel[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    width: Int,
    is_decode: Bool,
](
    latents: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    cache: PagedKVCache[dtype, kv_params, page_size],
    batch: RaggedBatch,
    total_tokens: Int32,
):
    """Moves one vector of a latent per lane.

    Parameters:
        dtype: The element type.
        kv_params: One head, and the elements of a latent.
        page_size: The tokens per page.
        width: The elements per vector.
        is_decode: Whether there are no more rows than sequences.

    Args:
        latents: The new latents, `[total_tokens, head_dim]`.
        cache: The layer's latents.
        batch: The rows of each sequence.
        total_tokens: The rows in `latents`.
    """
    comptime stride = cache.page_layout.token_stride
    comptime align = width * align_of[Scalar[dtype]]()
    comptime Share = RowShare[stride // width]
    comptime Guess = RowGuess[
        dtype,
        kv_params,
        page_size,
        after_cached=True,
        is_warp_wide=Share.is_warp_wide,
        is_decode=is_decode,
    ]
    await_kernels_before()
    var row, vector = Share.row_and_item()
    if row >= Int(total_tokens) or vector >= Share.num_items:
        return
    var guess = Guess(cache, batch, row)
    var element = vector * width
    var latent = load_after_wait[width](
        latents.unsafe_offset(row * stride + element)
    )
    var rows = guess.sequence(cache, batch, row)
    if not rows.holds(row):
        return
    var target = guess.token_offset(cache, rows, row) + element
    cache.blocks.ptr.unsafe_store[alignment=align](target, latent)


def store_latents_gpu[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, //
](
    latents: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    cache: PagedKVCache[dtype, kv_params, page_size],
    batch: RaggedBatch,
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the store.

    Parameters:
        dtype: The element type.
        kv_params: One head, and the elements of a latent.
        page_size: The tokens per page.

    Args:
        latents: The new latents, `[total_tokens, head_dim]`.
        cache: The layer's latents.
        batch: The rows of each sequence.
        total_tokens: The rows in `latents`.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime stride = cache.page_layout.token_stride
    comptime width = gpu_width[dtype](stride)
    comptime Share = RowShare[stride // width]
    if total_tokens == 0 or batch.batch_size == 0:
        return

    def launch[is_decode: Bool]() raises {imm}:
        comptime kernel = store_latents_kernel[
            dtype, kv_params, page_size, width, is_decode
        ]
        ctx.enqueue_function[kernel](
            latents,
            cache,
            batch,
            Int32(total_tokens),
            grid_dim=Share.num_blocks(total_tokens),
            block_dim=ROW_THREADS,
            attributes=overlapping_launch(),
        )

    if total_tokens <= Int(batch.batch_size):
        launch[True]()
    else:
        launch[False]()
