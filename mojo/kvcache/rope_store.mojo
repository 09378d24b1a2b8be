"""Rotary embedding of queries and keys, fused with the store into pages."""

from kv_cache.types import KVCacheStaticParams
from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv, gcd
from std.sys import size_of

from .cache import PagedKVCache
from .parallel import GRAIN_BYTES, parallel_ranges
from .ragged import RaggedBatch
from .rope import Rope
from .vectors import GPU_VECTOR_BYTES, THREADS, cpu_width, widest_divisor


struct RopeStore[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
](TrivialRegisterPassable):
    """One layer's rotation and store, the same on every target.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
    """

    comptime CacheType = PagedKVCache[
        Self.dtype, Self.kv_params, Self.page_size
    ]
    """The view of one layer's keys or values."""

    comptime num_heads = Self.num_q_heads + 2 * Self.kv_params.num_heads
    """The heads in one row of `qkv`."""

    comptime head_dim = Self.kv_params.head_size
    """The elements per head."""

    comptime pairs = gcd(Self.head_dim // 2, Self.rope_dim // 2)
    """A number of pairs that divides both parts of a head."""

    var queries: Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    """Receives the rotated queries, `[total_tokens, num_q_heads, head_dim]`."""

    var qkv: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin]
    """Queries, keys and values, `[total_tokens, num_heads, head_dim]`."""

    var freqs: Pointer[Float32, ImmUntrackedOrigin]
    """Cosines then sines, float32 `[num_positions, rope_dim]`."""

    var num_positions: Int64
    """The rows in `freqs`."""

    var keys: Self.CacheType
    """The layer's keys."""

    var values: Self.CacheType
    """The layer's values."""

    var batch: RaggedBatch
    """The rows of each sequence."""

    def __init__(
        out self,
        queries: Pointer[Scalar[Self.dtype], MutUntrackedOrigin],
        qkv: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin],
        freqs: Pointer[Float32, ImmUntrackedOrigin],
        num_positions: Int,
        keys: Self.CacheType,
        values: Self.CacheType,
        batch: RaggedBatch,
    ):
        """Collects the tensors of one call.

        Args:
            queries: Receives the rotated queries.
            qkv: Queries, keys and values of every row.
            freqs: The rotation of every position.
            num_positions: The rows in `freqs`.
            keys: The layer's keys.
            values: The layer's values.
            batch: The rows of each sequence.
        """
        self.queries = queries
        self.qkv = qkv
        self.freqs = freqs
        self.num_positions = Int64(num_positions)
        self.keys = keys
        self.values = values
        self.batch = batch

    @always_inline
    def move_chunk[
        width: Int
    ](self, row: Int, seq: Int, position: Int, head: Int, chunk: Int):
        """Moves one chunk of one head of one row to where it belongs.

        Parameters:
            width: The pairs in a chunk.

        Args:
            row: The row of `qkv`.
            seq: The row's sequence.
            position: The row's position in its sequence.
            head: The head in `[0, num_heads)`: queries, keys, then values.
            chunk: The chunk of the head.
        """
        comptime Turn = Rope[
            Self.head_dim, Self.rope_dim, Self.interleaved, width
        ]
        comptime num_kv_heads = Self.kv_params.num_heads
        assert position < Int(self.num_positions), "position beyond freqs"
        var source = self.qkv.unsafe_offset(
            (row * Self.num_heads + head) * Self.head_dim
        )
        var freqs = self.freqs.unsafe_offset(position * Self.rope_dim)
        var kv_head = head - Self.num_q_heads
        if kv_head < 0:
            var target = self.queries.unsafe_offset(
                (row * Self.num_q_heads + head) * Self.head_dim
            )
            Turn.rotate(source, target, freqs, chunk)
        elif kv_head < num_kv_heads:
            var target = self.keys.block_paged_ptr[1](seq, position, kv_head)
            Turn.rotate(source, target, freqs, chunk)
        else:
            var target = self.values.block_paged_ptr[1](
                seq, position, kv_head - num_kv_heads
            )
            Turn.copy(source, target, chunk)

    def run_cpu(self) raises:
        """Rotates and stores on the cores of the CPU.

        Raises:
            If a task fails.
        """
        comptime width = cpu_width[DType.float32](Self.pairs)
        comptime num_chunks = Self.head_dim // 2 // width
        comptime row_bytes = (
            Self.num_heads * Self.head_dim * size_of[Self.dtype]()
        )

        def move_rows(begin: Int, end: Int) raises {imm}:
            for row in range(begin, end):
                var seq = self.batch.sequence_of(row)
                var position = (
                    self.keys.cache_length(seq) + row - self.batch.start(seq)
                )
                for head in range(Self.num_heads):
                    comptime for chunk in range(num_chunks):
                        self.move_chunk[width](row, seq, position, head, chunk)

        parallel_ranges(
            move_rows,
            num_items=self.batch.num_rows(),
            grain=ceildiv(GRAIN_BYTES, row_bytes),
        )

    def run_gpu(self, total_tokens: Int, ctx: DeviceContext) raises:
        """Launches the rotation and store, all in one kernel.

        Args:
            total_tokens: The rows in `qkv`.
            ctx: The GPU's context.

        Raises:
            If a task fails.
        """
        comptime width = widest_divisor(
            Self.pairs, GPU_VECTOR_BYTES // 2 // size_of[Self.dtype]()
        )
        comptime per_row = Self.num_heads * (Self.head_dim // 2 // width)
        if total_tokens == 0:
            return
        comptime kernel = rope_store_kernel[
            Self.dtype,
            Self.kv_params,
            Self.page_size,
            Self.num_q_heads,
            Self.rope_dim,
            Self.interleaved,
            width,
        ]
        ctx.enqueue_function[kernel](
            self.queries,
            self.qkv,
            self.freqs,
            self.num_positions,
            self.keys,
            self.values,
            self.batch,
            grid_dim=ceildiv(total_tokens * per_row, THREADS),
            block_dim=THREADS,
        )


def rope_store_kernel[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    width: Int,
](
    queries: Pointer[Scalar[dtype], MutUntrackedOrigin],
    qkv: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    freqs: Pointer[Float32, ImmUntrackedOrigin],
    num_positions: Int64,
    keys: PagedKVCache[dtype, kv_params, page_size],
    values: PagedKVCache[dtype, kv_params, page_size],
    batch: RaggedBatch,
):
    """Moves one chunk of one head per thread.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
        width: The pairs in a chunk.

    Args:
        queries: Receives the rotated queries.
        qkv: Queries, keys and values of every row.
        freqs: The rotation of every position.
        num_positions: The rows in `freqs`.
        keys: The layer's keys.
        values: The layer's values.
        batch: The rows of each sequence.
    """
    comptime Work = RopeStore[
        dtype, kv_params, page_size, num_q_heads, rope_dim, interleaved
    ]
    comptime num_chunks = Work.head_dim // 2 // width
    var work = Work(
        queries, qkv, freqs, Int(num_positions), keys, values, batch
    )
    var item = Int(block_idx.x) * THREADS + Int(thread_idx.x)
    var head_of_all, chunk = divmod(item, num_chunks)
    var row, head = divmod(head_of_all, Work.num_heads)
    if row >= batch.num_rows():
        return
    var seq = batch.sequence_of(row)
    var position = keys.cache_length(seq) + row - batch.start(seq)
    work.move_chunk[width](row, seq, position, head, chunk)
