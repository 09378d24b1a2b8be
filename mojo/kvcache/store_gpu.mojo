"""Stores the keys and values of a ragged batch into pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import block_idx
from max.gpu.host import DeviceContext
from std.sys import align_of

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .overlap import (
    await_kernels_before,
    load_after_wait,
    overlapping_launch,
)
from .row_share import ROW_THREADS, RowShare
from .sequence_rows import RowGuess
from .vectors import gpu_width


struct StoreRows[dtype: DType, kv_params: KVCacheStaticParams, page_size: Int]:
    """A share of the rows for each thread block.

    A lane has one vector of a key, and the same one of the value.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
    """

    comptime CacheType = PagedKVCache[
        Self.dtype, Self.kv_params, Self.page_size
    ]
    """The view of one layer's keys or values."""

    comptime stride = Self.CacheType.page_layout.token_stride
    """The elements of a row."""

    comptime width = gpu_width[Self.dtype](Self.stride)
    """The elements of a vector."""

    comptime align = Self.width * align_of[Scalar[Self.dtype]]()
    """The alignment of a vector, in bytes."""

    comptime Share = RowShare[Self.stride // Self.width]
    """What each lane has."""

    comptime Source = Pointer[Scalar[Self.dtype], ImmUntrackedOrigin]
    """New keys or values, `[total_tokens, num_kv_heads, head_dim]`."""

    @staticmethod
    @always_inline
    def move[
        is_decode: Bool
    ](
        block: Int,
        keys: Self.Source,
        values: Self.Source,
        key_cache: Self.CacheType,
        value_blocks: Pointer[Scalar[Self.dtype], MutUntrackedOrigin],
        batch: RaggedBatch,
        total_tokens: Int,
    ):
        """Moves a thread block's share.

        Parameters:
            is_decode: Whether there are no more rows than sequences.

        Args:
            block: The thread block, below `Share.num_blocks`.
            keys: The new keys.
            values: The new values.
            key_cache: The layer's keys.
            value_blocks: The layer's values in the first page.
            batch: The rows of each sequence.
            total_tokens: The rows in `keys`.
        """
        comptime Guess = RowGuess[
            Self.dtype,
            Self.kv_params,
            Self.page_size,
            after_cached=True,
            is_warp_wide=Self.Share.is_warp_wide,
            is_decode=is_decode,
        ]
        var row, vector = Self.Share.row_and_item(block)
        if row >= total_tokens or vector >= Self.Share.num_items:
            return
        var guess = Guess(key_cache, batch, row)
        var element = vector * Self.width
        var source = row * Self.stride + element
        var key = load_after_wait[Self.width](keys.unsafe_offset(source))
        var value = load_after_wait[Self.width](values.unsafe_offset(source))
        var rows = guess.sequence(key_cache, batch, row)
        if not rows.holds(row):
            return
        var target = guess.token_offset(key_cache, rows, row) + element
        key_cache.blocks.ptr.unsafe_store[alignment=Self.align](target, key)
        value_blocks.unsafe_store[alignment=Self.align](target, value)


def store_kernel[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    is_decode: Bool,
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_blocks: Pointer[Scalar[dtype], MutUntrackedOrigin],
    batch: RaggedBatch,
    total_tokens: Int32,
):
    """Moves the grid's rows.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        is_decode: Whether there are no more rows than sequences.

    Args:
        keys: The new keys, `[total_tokens, num_kv_heads, head_dim]`.
        values: The new values, of the same shape.
        key_cache: The layer's keys.
        value_blocks: The layer's values in the first page.
        batch: The rows of each sequence.
        total_tokens: The rows in `keys`.
    """
    await_kernels_before()
    StoreRows[dtype, kv_params, page_size].move[is_decode](
        Int(block_idx.x),
        keys,
        values,
        key_cache,
        value_blocks,
        batch,
        Int(total_tokens),
    )


def store_gpu[
    dtype: DType, kv_params: KVCacheStaticParams, page_size: Int, //
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_cache: PagedKVCache[dtype, kv_params, page_size],
    batch: RaggedBatch,
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the store of keys and values, both in one kernel.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.

    Args:
        keys: The new keys, `[total_tokens, num_kv_heads, head_dim]`.
        values: The new values, of the same shape.
        key_cache: The layer's keys.
        value_cache: The layer's values, over the same tables.
        batch: The rows of each sequence.
        total_tokens: The rows in `keys`.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime Share = StoreRows[dtype, kv_params, page_size].Share
    if total_tokens == 0 or batch.batch_size == 0:
        return

    def launch[is_decode: Bool]() raises {imm}:
        comptime kernel = store_kernel[dtype, kv_params, page_size, is_decode]
        ctx.enqueue_function[kernel](
            keys,
            values,
            key_cache,
            value_cache.blocks.ptr,
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
