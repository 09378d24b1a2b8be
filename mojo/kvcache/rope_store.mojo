"""Rotary embedding of queries and keys, fused with the store into pages."""

from kv_cache.types import KVCacheStaticParams
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.math import gcd

from .cache import PagedKVCache
from .ragged import RaggedBatch
from .rope import Rope


struct RopeStore[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
](DevicePassable, TrivialRegisterPassable):
    """One layer's rotation and store, the same on every target.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime CacheType = PagedKVCache[
        Self.dtype, Self.kv_params, Self.page_size
    ]
    """The view of one layer's keys or values."""

    comptime num_heads = Self.num_q_heads + 2 * Self.kv_params.num_heads
    """The heads in one row of `qkv`."""

    comptime num_turning_heads = Self.num_q_heads + Self.kv_params.num_heads
    """The leading heads of a row of `qkv`: those that are rotated."""

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

    def _to_device_type(
        self, mut encoder: Some[DeviceTypeEncoder], target: MutOpaquePointer[_]
    ):
        encoder.encode(self, target)

    @staticmethod
    def get_type_name() -> String:
        """Returns the name of this type.

        Returns:
            The name.
        """
        return "RopeStore"

    @always_inline
    def angles(
        self, position: Int, pair: Int
    ) -> Pointer[Float32, ImmUntrackedOrigin]:
        """Returns where the cosine of a pair is; its sine is half a row on.

        Args:
            position: The row's position in its sequence.
            pair: The pair of a head that turns.

        Returns:
            The cosine of that pair, the next pairs' behind it.
        """
        assert position < Int(self.num_positions), "position beyond freqs"
        return self.freqs.unsafe_offset(position * Self.rope_dim + pair)

    @always_inline
    def source(
        self, row: Int, head: Int
    ) -> Pointer[Scalar[Self.dtype], ImmUntrackedOrigin]:
        """Returns where a head of one row comes from.

        Args:
            row: The row of `qkv`.
            head: The head in `[0, num_heads)`: queries, keys, then values.

        Returns:
            The head's first element.
        """
        return self.qkv.unsafe_offset(
            (row * Self.num_heads + head) * Self.head_dim
        )

    @always_inline
    def target(
        self, row: Int, token_offset: Int, head: Int
    ) -> Pointer[Scalar[Self.dtype], MutUntrackedOrigin]:
        """Returns where a head of one row belongs.

        Args:
            row: The row of `qkv`.
            token_offset: Where the row's token lies in the pages, in elements.
            head: The head in `[0, num_heads)`: queries, keys, then values.

        Returns:
            The head's first element.
        """
        if head < Self.num_q_heads:
            return self.queries.unsafe_offset(
                (row * Self.num_q_heads + head) * Self.head_dim
            )
        if head < Self.num_turning_heads:
            return self.keys.blocks.ptr.unsafe_offset(
                token_offset + (head - Self.num_q_heads) * Self.head_dim
            )
        return self.values.blocks.ptr.unsafe_offset(
            token_offset + (head - Self.num_turning_heads) * Self.head_dim
        )

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
        var source = self.qkv.unsafe_offset(
            (row * Self.num_heads + head) * Self.head_dim
        )
        var target = self.target(
            row, self.keys.token_offset(seq, position), head
        )
        if head < Self.num_turning_heads:
            Turn.rotate(source, target, self.angles(position, 0), chunk)
        else:
            Turn.copy(source, target, chunk)
