"""Turns cached keys on to new positions, on a GPU."""

from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.sys import size_of

from .rope_shift import RopeShift
from .vectors import GPU_VECTOR_BYTES, THREADS, widest_divisor


def rope_shift_kernel[
    dtype: DType,
    page_size: Int,
    num_kv_heads: Int,
    head_dim: Int,
    rope_begin: Int,
    rope_dim: Int,
    interleaved: Bool,
    width: Int,
](
    kv_blocks: Pointer[Scalar[dtype], MutUntrackedOrigin],
    freqs: Pointer[Float32, ImmUntrackedOrigin],
    shifts: Pointer[UInt32, ImmUntrackedOrigin],
    num_pages: Int64,
    num_rows: Int64,
    page_stride: Int64,
):
    """Turns one chunk of one key per thread, one layer of a shift per row.

    Parameters:
        dtype: The element type.
        page_size: The tokens per page.
        num_kv_heads: The key-value heads.
        head_dim: The elements per head.
        rope_begin: The first element of a head that turns.
        rope_dim: The elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
        width: The pairs in a chunk.

    Args:
        kv_blocks: The pool.
        freqs: Cosines then sines, float32 `[num_rows, rope_dim]`.
        shifts: Page, begin, end and row of `freqs`, `[num_shifts, 4]`.
        num_pages: The pages in the pool, the null page not counted.
        num_rows: The rows in `freqs`.
        page_stride: The elements of a page.
    """
    comptime Work = RopeShift[
        dtype,
        page_size,
        num_kv_heads,
        head_dim,
        rope_begin,
        rope_dim,
        interleaved,
    ]
    comptime num_chunks = rope_dim // 2 // width
    var work = Work(
        kv_blocks,
        freqs,
        shifts,
        num_pages=Int(num_pages),
        num_rows=Int(num_rows),
        page_stride=Int(page_stride),
    )
    var item = Int(block_idx.x) * THREADS + Int(thread_idx.x)
    var head_of_page, chunk = divmod(item, num_chunks)
    var token, head = divmod(head_of_page, num_kv_heads)
    var layer, shift = Int(block_idx.y), Int(block_idx.z)
    work.check(shift)
    var slot = work.column(shift, 1) + token
    if slot < work.column(shift, 2):
        work.turn[width](shift, layer, slot, head, chunk)


def rope_shift_gpu[
    dtype: DType,
    page_size: Int,
    num_kv_heads: Int,
    head_dim: Int,
    rope_begin: Int,
    rope_dim: Int,
    interleaved: Bool,
    //,
](
    work: RopeShift[
        dtype,
        page_size,
        num_kv_heads,
        head_dim,
        rope_begin,
        rope_dim,
        interleaved,
    ],
    *,
    num_shifts: Int,
    num_layers: Int,
    ctx: DeviceContext,
) raises:
    """Launches the turn of every shift's keys, all in one kernel.

    Parameters:
        dtype: The element type.
        page_size: The tokens per page.
        num_kv_heads: The key-value heads.
        head_dim: The elements per head.
        rope_begin: The first element of a head that turns.
        rope_dim: The elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.

    Args:
        work: The tensors.
        num_shifts: The shifts.
        num_layers: The layers in the pool.
        ctx: The GPU's context.

    Raises:
        If the launch fails.
    """
    comptime width = widest_divisor(
        work.pairs, GPU_VECTOR_BYTES // 2 // size_of[dtype]()
    )
    comptime per_page = page_size * num_kv_heads * (rope_dim // 2 // width)
    if num_shifts == 0:
        return
    comptime kernel = rope_shift_kernel[
        dtype,
        page_size,
        num_kv_heads,
        head_dim,
        rope_begin,
        rope_dim,
        interleaved,
        width,
    ]
    ctx.enqueue_function[kernel](
        work.kv_blocks,
        work.freqs,
        work.shifts,
        work.num_pages,
        work.num_rows,
        work.page_stride,
        grid_dim=(ceildiv(per_page, THREADS), num_layers, num_shifts),
        block_dim=THREADS,
    )
