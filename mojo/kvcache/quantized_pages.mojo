"""One layer's quantised keys and values, a head of a token at a time."""

from kv_cache.types import KVCacheStaticParams
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder

from .cache import PagedKVCache
from .quantize import dequantize, quantize, scale_of
from .scales import Quantization
from .vectors import cpu_width


struct QuantizedPages[
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
](DevicePassable, TrivialRegisterPassable):
    """One layer's keys and values, and the scales that they are kept with.

    Parameters:
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.
    """

    comptime CacheType = PagedKVCache[
        Self.kv_dtype, Self.kv_params, Self.page_size, Self.quantization
    ]
    """The view of one layer's keys or values."""

    comptime scale_layout = Self.CacheType.scales_type.layout
    """Where a scale lies."""

    comptime group_size = Self.CacheType.quantization_granularity
    """The elements of a head that share a scale."""

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    var keys: Self.CacheType
    """The layer's keys."""

    var values: Self.CacheType
    """The layer's values."""

    var scales: Pointer[Float32, ImmUntrackedOrigin]
    """The layer's scales, `[2, num_kv_heads]` or `[2, 1]`; not looked at where
    each token has its own."""

    def __init__(
        out self,
        keys: Self.CacheType,
        values: Self.CacheType,
        scales: Pointer[Float32, ImmUntrackedOrigin],
    ):
        """Collects the views of one layer.

        Args:
            keys: The layer's keys.
            values: The layer's values.
            scales: What keys and values are kept with.
        """
        self.keys = keys
        self.values = values
        self.scales = scales

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
        return "QuantizedPages"

    @always_inline
    def cache[kv: Int](self) -> Self.CacheType:
        """Returns the keys or the values.

        Parameters:
            kv: 0 for keys, 1 for values.

        Returns:
            The view.
        """
        comptime if kv == 0:
            return self.keys
        else:
            return self.values

    @always_inline
    def given_scale[kv: Int](self, head: Int) -> Float32:
        """Returns the scale that one head of the layer is kept with.

        Parameters:
            kv: 0 for keys, 1 for values.

        Args:
            head: The key-value head in `[0, num_kv_heads)`.

        Returns:
            The scale.

        Constraints:
            Tokens must not have scales of their own.
        """
        comptime assert not Self.scale_layout.is_per_token, "no scale is given"
        var place = kv * Self.scale_layout.num_heads
        comptime if Self.scale_layout.is_per_head:
            place += head
        var scale = self.scales[unsafe_offset=place]
        assert scale > 0, "wanted a positive scale"
        return scale

    @always_inline
    def keep_given_scale[kv: Int](self, seq: Int, position: Int, head: Int):
        """Writes the given scale of a head into the page of a token.

        Parameters:
            kv: 0 for keys, 1 for values.

        Args:
            seq: The sequence.
            position: The token's position in its sequence.
            head: The key-value head; of a tensor's scale only 0 writes.

        Constraints:
            Tokens must not have scales of their own.
        """
        if Self.scale_layout.is_per_head or head == 0:
            self.cache[kv]().store_scale(
                seq, head, position, 0, self.given_scale[kv](head)
            )

    @always_inline
    def keep_head[
        dtype: DType, //, kv: Int
    ](
        self,
        source: Pointer[Scalar[dtype], _],
        seq: Int,
        position: Int,
        head: Int,
    ):
        """Quantises and stores one head of one token, on the CPU.

        A token's own scales are stored too; given ones are not.

        Parameters:
            dtype: The type of the numbers.
            kv: 0 for keys, 1 for values.

        Args:
            source: The numbers, `[head_dim]`.
            seq: The sequence.
            position: The token's position in its sequence.
            head: The key-value head.
        """
        comptime width = cpu_width[DType.float32](Self.group_size)
        comptime code = Self.kv_dtype
        var cache = self.cache[kv]()
        var target = cache.block_paged_ptr[1](seq, position, head)
        for first in range(0, Self.kv_params.head_size, Self.group_size):
            var scale: Float32
            comptime if Self.scale_layout.is_per_token:
                var largest = SIMD[DType.float32, width](0)
                for i in range(first, first + Self.group_size, width):
                    var numbers = source.unsafe_load[width=width](i)
                    largest = max(largest, abs(numbers.cast[DType.float32]()))
                scale = scale_of[code](largest.reduce_max())
                cache.store_scale(seq, head, position, first, scale)
            else:
                scale = self.given_scale[kv](head)
            var inverse = 1 / scale
            for i in range(first, first + Self.group_size, width):
                var numbers = source.unsafe_load[width=width](i)
                target.unsafe_store(i, quantize[code](numbers, inverse))


@always_inline
def read_head[
    dtype: DType, //
](
    cache: PagedKVCache,
    target: Pointer[mut=True, Scalar[dtype], _],
    seq: Int,
    position: Int,
    head: Int,
):
    """Writes what one head of one token means, on the CPU.

    Parameters:
        dtype: The type to round to.

    Args:
        cache: A layer's quantised keys or values.
        target: Receives the numbers, `[head_dim]`.
        seq: The sequence.
        position: The token's position in its sequence.
        head: The key-value head.
    """
    comptime group_size = cache.quantization_granularity
    comptime width = cpu_width[DType.float32](group_size)
    var source = cache.block_paged_ptr[1](seq, position, head)
    var scales = cache.scales_block_paged_ptr(seq, position, head)
    for group in range(cache.scales_type.layout.num_groups):
        var scale = scales[unsafe_offset=group]
        var first = group * group_size
        for i in range(first, first + group_size, width):
            var codes = source.unsafe_load[width=width](i)
            target.unsafe_store(i, dequantize(codes, scale).cast[dtype]())
