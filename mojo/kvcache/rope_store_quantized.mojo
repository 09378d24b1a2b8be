"""Rotary embedding of queries and keys, whose pages are quantised."""

from kv_cache.types import KVCacheStaticParams
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.math import gcd

from .quantized_pages import QuantizedPages
from .ragged import RaggedBatch
from .rope import Rope
from .scales import Quantization


struct RopeStoreQuantized[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
](DevicePassable, TrivialRegisterPassable):
    """One layer's rotation and quantised store, the same on every target.

    A head is turned as a whole before it is quantised, because its scale
    depends on all of it. So keys and values go by way of `kept`, room for one
    head in fast memory.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
    """

    comptime PagesType = QuantizedPages[
        Self.kv_dtype, Self.kv_params, Self.page_size, Self.quantization
    ]
    """The layer's keys and values."""

    comptime num_heads = Self.num_q_heads + 2 * Self.kv_params.num_heads
    """The heads in one row of `qkv`."""

    comptime head_dim = Self.kv_params.head_size
    """The elements per head."""

    comptime pairs = gcd(Self.head_dim // 2, Self.rope_dim // 2)
    """A number of pairs that divides both parts of a head."""

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    var queries: Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    """Receives the rotated queries, `[total_tokens, num_q_heads, head_dim]`."""

    var qkv: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin]
    """Queries, keys and values, `[total_tokens, num_heads, head_dim]`."""

    var freqs: Pointer[Float32, ImmUntrackedOrigin]
    """Cosines then sines, float32 `[num_positions, rope_dim]`."""

    var num_positions: Int64
    """The rows in `freqs`."""

    var pages: Self.PagesType
    """The layer's keys and values."""

    var batch: RaggedBatch
    """The rows of each sequence."""

    def __init__(
        out self,
        queries: Pointer[Scalar[Self.dtype], MutUntrackedOrigin],
        qkv: Pointer[Scalar[Self.dtype], ImmUntrackedOrigin],
        freqs: Pointer[Float32, ImmUntrackedOrigin],
        num_positions: Int,
        pages: Self.PagesType,
        batch: RaggedBatch,
    ):
        """Collects the tensors of one call.

        Args:
            queries: Receives the rotated queries.
            qkv: Queries, keys and values of every row.
            freqs: The rotation of every position.
            num_positions: The rows in `freqs`.
            pages: The layer's keys and values.
            batch: The rows of each sequence.
        """
        self.queries = queries
        self.qkv = qkv
        self.freqs = freqs
        self.num_positions = Int64(num_positions)
        self.pages = pages
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
        return "RopeStoreQuantized"

    @always_inline
    def turn_chunk[
        width: Int
    ](
        self,
        kept: Pointer[mut=True, Scalar[Self.dtype], _],
        row: Int,
        position: Int,
        head: Int,
        chunk: Int,
    ):
        """Turns one chunk of one head of one row.

        Parameters:
            width: The pairs in a chunk.

        Args:
            kept: Receives keys and values, `[head_dim]`; queries go to their
                place.
            row: The row of `qkv`.
            position: The row's position in its sequence.
            head: The head in `[0, num_heads)`: queries, keys, then values.
            chunk: The chunk of the head.
        """
        comptime Turn = Rope[
            Self.head_dim, Self.rope_dim, Self.interleaved, width
        ]
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
        elif kv_head < Self.kv_params.num_heads:
            Turn.rotate(source, kept, freqs, chunk)
        else:
            Turn.copy(source, kept, chunk)
