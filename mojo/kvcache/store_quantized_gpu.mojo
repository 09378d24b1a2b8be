"""Quantises the keys and values of a ragged batch into pages, on a GPU."""

from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext

from .overlap import await_kernels_before, overlapping_launch
from .quantized_lanes import Piece, keep_piece, lanes_of, load_piece
from .quantized_pages import QuantizedPages
from .ragged import RaggedBatch
from .row_share import ROW_THREADS, RowShare
from .scales import SHARED_WIDTH, Quantization
from .sequence_rows import RowGuess, SequenceRows


def store_quantized_kernel[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    is_decode: Bool,
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    pages: QuantizedPages[kv_dtype, kv_params, page_size, quantization],
    batch: RaggedBatch,
    total_tokens: Int32,
):
    """Keeps eight elements of a key and of a value per thread.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.
        is_decode: Whether there are no more rows than sequences.

    Args:
        keys: The new keys, or latents, `[total_tokens, num_kv_heads,
            head_dim]`.
        values: The new values, of the same shape; of latents, not looked at.
        pages: The layer's keys and values.
        batch: The rows of each sequence.
        total_tokens: The rows in `keys`.
    """
    comptime head_dim = kv_params.head_size
    comptime lanes = lanes_of(head_dim)
    comptime Share = RowShare[kv_params.num_heads * lanes]
    comptime Guess = RowGuess[
        kv_dtype,
        kv_params,
        page_size,
        after_cached=True,
        is_warp_wide=Share.is_warp_wide,
        is_decode=is_decode,
        quantization=quantization,
    ]
    await_kernels_before()
    var row, item = Share.row_and_item()
    var head, lane = divmod(item, lanes)
    var element = lane * SHARED_WIDTH
    var is_row = row < Int(total_tokens)
    var is_piece = is_row and item < Share.num_items and element < head_dim
    var key, value = Piece(0), Piece(0)
    var rows = SequenceRows()
    if is_row:
        var guess = Guess(pages.keys, batch, row)
        if is_piece:
            var source = (row * kv_params.num_heads + head) * head_dim + element
            key = load_piece(keys, source)
            comptime if not kv_params.is_mla:
                value = load_piece(values, source)
        rows = guess.sequence(pages.keys, batch, row)
    var position = rows.position(row)
    comptime for kv in range(1 if kv_params.is_mla else 2):
        keep_piece[kv](
            pages,
            key if kv == 0 else value,
            seq=rows.seq,
            position=position,
            head=head,
            element=element,
            is_there=is_piece and rows.holds(row),
            is_first=row == rows.start or position % page_size == 0,
        )


def store_quantized_gpu[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    //,
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    pages: QuantizedPages[kv_dtype, kv_params, page_size, quantization],
    batch: RaggedBatch,
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Launches the store of keys and values, both in one kernel.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.

    Args:
        keys: The new keys, or latents, `[total_tokens, num_kv_heads,
            head_dim]`.
        values: The new values, of the same shape; of latents, not looked at.
        pages: The layer's keys and values.
        batch: The rows of each sequence.
        total_tokens: The rows in `keys`.
        ctx: The GPU's context.

    Raises:
        If a task fails.
    """
    comptime Share = RowShare[
        kv_params.num_heads * lanes_of(kv_params.head_size)
    ]
    if total_tokens == 0 or batch.batch_size == 0:
        return

    def launch[is_decode: Bool]() raises {imm}:
        comptime kernel = store_quantized_kernel[
            dtype, kv_dtype, kv_params, page_size, quantization, is_decode
        ]
        ctx.enqueue_function[kernel](
            keys,
            values,
            pages,
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
