"""Reads a span of one head's keys or values for the CPU's attention."""

from kv_cache.types import KVCacheStaticParams

from .cache import PagedKVCache
from .quantized_pages import read_head
from .scales import Quantization


struct SpanReader[
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    span: Int,
](Movable):
    """Reads plain pages where they are, and quantised ones into its own room.

    Parameters:
        kv_dtype: The element type of the pool.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which of the pool's elements share a scale.
        span: The tokens read at once; it divides the page size.
    """

    comptime CacheType = PagedKVCache[
        Self.kv_dtype, Self.kv_params, Self.page_size, Self.quantization
    ]
    """The view of one layer's keys or values."""

    comptime is_quantized = Self.CacheType.quantization_enabled
    """Whether what is read lies in the reader's room."""

    comptime dtype = DType.float32 if Self.is_quantized else Self.kv_dtype
    """The type of what is read."""

    comptime head_dim = Self.kv_params.head_size
    """The elements per head."""

    comptime stride = (
        Self.head_dim if Self.is_quantized else Self.CacheType.page_layout.token_stride
    )
    """The elements between two tokens."""

    comptime SpanType = Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    """Where the first token is."""

    var room: List[Float32]
    """Room for a span of quantised tokens, `[span, head_dim]`."""

    def __init__(out self):
        """Makes room, if there is a need for it."""
        var size = Self.span * Self.head_dim if Self.is_quantized else 0
        self.room = List[Float32](unsafe_uninit_length=size)

    @always_inline
    def read(
        mut self,
        cache: Self.CacheType,
        *,
        seq: Int,
        head: Int,
        start: Int,
        count: Int,
    ) -> Self.SpanType:
        """Returns where consecutive tokens of one page are.

        Args:
            cache: The layer's keys or values.
            seq: The sequence.
            head: The key-value head.
            start: The position of the first token, a multiple of `span`.
            count: The tokens to read, `span` at most.

        Returns:
            The first token's elements; the next read may overwrite them.
        """
        comptime if Self.is_quantized:
            var room = self.room.unsafe_ptr()
            for token in range(count):
                var target = room.unsafe_offset(token * Self.head_dim)
                read_head(cache, target, seq, start + token, head)
            return rebind[Self.SpanType](
                room.unsafe_origin_cast[MutUntrackedOrigin]()
            )
        else:
            return rebind[Self.SpanType](
                cache.block_paged_ptr[Self.span](seq, start, head)
            )
