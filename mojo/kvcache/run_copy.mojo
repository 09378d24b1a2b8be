"""Copies runs of tokens between rows and pages, on the CPU.

A run is short, and the next one begins somewhere else: the processor's own
prefetcher stops at its end. So each line that is copied brings one of the next
run near. What the caches would not hold goes past them: a line that is written
whole need not be read first.
"""

from std.memory import unsafe_memcpy
from std.sys import size_of
from std.sys.intrinsics import PrefetchOptions, prefetch

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .runs import PageRun

comptime LINE_BYTES = 64
"""The bytes of a line of the processor's caches."""

comptime MEMORY_PAGE_BYTES = 4096
"""The bytes that the processor looks up at once."""

comptime STREAM_BYTES = 8 << 20
"""The bytes of a call from which on what is written goes past the caches."""

comptime _TO_READ = PrefetchOptions().for_read().high_locality()


def is_stream(cache: PagedKVCache, num_rows: Int) -> Bool:
    """Returns whether rows are more than the caches should hold.

    Args:
        cache: What they are stored in, or gathered from.
        num_rows: The rows.

    Returns:
        Whether they are.
    """
    comptime bytes = (cache.page_layout.token_stride * size_of[cache.dtype_]())
    return num_rows * bytes >= STREAM_BYTES


@always_inline
def store_run[
    dtype: DType, //
](
    rows: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    cache: PagedKVCache[dtype, ...],
    batch: RaggedBatch,
    run: PageRun,
    *,
    is_stream: Bool,
):
    """Copies a run of rows into its page.

    Parameters:
        dtype: The element type.

    Args:
        rows: All rows, `[total_tokens, num_kv_heads, head_dim]`.
        cache: The layer's keys, or values.
        batch: The rows of each sequence.
        run: The run.
        is_stream: Whether it goes past the caches.
    """
    comptime stride = cache.page_layout.token_stride
    var source = rows.unsafe_offset(run.row * stride)
    var count = run.length * stride
    _find_ahead(_next_place(cache, batch, run), count)
    copy_run(
        dest=cache.block_paged_ptr[1](run.seq, run.position, 0),
        src=source,
        count=count,
        next=source.unsafe_offset(count),
        is_stream=is_stream,
    )


@always_inline
def gather_run[
    dtype: DType, //
](
    rows: Pointer[Scalar[dtype], MutUntrackedOrigin],
    cache: PagedKVCache[dtype, ...],
    context: RaggedBatch,
    run: PageRun,
    *,
    is_stream: Bool,
):
    """Copies a run of rows out of its page.

    Parameters:
        dtype: The element type.

    Args:
        rows: All rows, `[context_tokens, num_kv_heads, head_dim]`.
        cache: The layer's keys, or values.
        context: The rows of each sequence, from its position 0.
        run: The run.
        is_stream: Whether it goes past the caches.
    """
    comptime stride = cache.page_layout.token_stride
    copy_run(
        dest=rows.unsafe_offset(run.row * stride),
        src=cache.block_paged_ptr[1](run.seq, run.position, 0),
        count=run.length * stride,
        next=_next_place(cache, context, run),
        is_stream=is_stream,
    )


@always_inline
def _next_place[
    dtype: DType, //
](cache: PagedKVCache[dtype, ...], batch: RaggedBatch, run: PageRun) -> Pointer[
    Scalar[dtype], MutUntrackedOrigin
]:
    """Returns where the sequence's next run is in the pool, if it has one."""
    var position = run.position
    if run.row + run.length < batch.start(run.seq + 1):
        position += run.length
    return cache.block_paged_ptr[1](run.seq, position, 0)


@always_inline
def _find_ahead[dtype: DType](place: Pointer[Scalar[dtype], _], count: Int):
    """Has the processor find out where memory is that is written next."""
    var memory = place.unsafe_bitcast[UInt8]()
    for offset in range(0, count * size_of[dtype](), MEMORY_PAGE_BYTES):
        prefetch[_TO_READ](memory.unsafe_offset(offset))


@always_inline
def copy_run[
    dtype: DType, //
](
    *,
    dest: Pointer[Scalar[dtype], MutUntrackedOrigin],
    src: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    count: Int,
    next: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    is_stream: Bool,
):
    """Copies a run.

    Parameters:
        dtype: The element type.

    Args:
        dest: Where the run goes.
        src: Where it is; the two do not overlap.
        count: Its elements.
        next: Where the next run is, as far as known; it is not read.
        is_stream: Whether it goes past the caches; then a fence comes before
            another thread reads it, as in `parallel_page_runs`.
    """
    var bytes = count * size_of[dtype]()
    var to = dest.unsafe_bitcast[UInt8]()
    var source = src.unsafe_bitcast[UInt8]()
    # Rows begin where their tensor does, which need not be where a line does.
    var head = min(-Int(to) % LINE_BYTES, bytes)
    var lines = (bytes - head) // LINE_BYTES * LINE_BYTES
    var tail = head + lines
    unsafe_memcpy(dest=to, src=source, count=head)

    @always_inline
    def copy[past_caches: Bool]() {imm}:
        _copy_lines[past_caches=past_caches](
            to.unsafe_offset(head),
            source.unsafe_offset(head),
            lines,
            next.unsafe_bitcast[UInt8](),
        )

    if is_stream:
        copy[True]()
    else:
        copy[False]()
    unsafe_memcpy(
        dest=to.unsafe_offset(tail),
        src=source.unsafe_offset(tail),
        count=bytes - tail,
    )


@always_inline
def _copy_lines[
    *, past_caches: Bool
](
    dest: Pointer[UInt8, MutUntrackedOrigin],
    src: Pointer[UInt8, ImmUntrackedOrigin],
    bytes: Int,
    next: Pointer[UInt8, ImmUntrackedOrigin],
):
    for place in range(0, bytes, LINE_BYTES):
        prefetch[_TO_READ](next.unsafe_offset(place))
        dest.unsafe_store[non_temporal=past_caches, alignment=LINE_BYTES](
            place, src.unsafe_load[width=LINE_BYTES](place)
        )
