"""Where keys and values lie, a piece of a page at a time, on the CPU."""

from kv_cache.types import KVCacheStaticParams
from std.sys import size_of
from std.sys.intrinsics import PrefetchOptions, prefetch

from .attention_softmax import SPAN
from .cache import PagedKVCache
from .quantized_pages import read_head
from .scales import Quantization

comptime LINE_BYTES = 64
"""The bytes of a line of the CPU's caches."""


struct Pieces[
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    block_size: Int = 0,
](Movable):
    """One sequence's keys or values, from one key-value head on.

    Plain pages are read where they are, quantised ones into room of their own.

    Parameters:
        kv_dtype: The element type of the pool.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which of the pool's elements share a scale.
        block_size: The tokens of a block, where blocks are chosen; else 0.
    """

    comptime CacheType = PagedKVCache[
        Self.kv_dtype,
        Self.kv_params,
        Self.page_size,
        Self.quantization,
        Self.block_size,
    ]
    """The view of one layer's keys or values."""

    comptime is_quantized = Self.CacheType.quantization_enabled
    """Whether what is read lies in the room."""

    comptime dtype = DType.float32 if Self.is_quantized else Self.kv_dtype
    """The type of what is read."""

    comptime tokens = min(Self.CacheType.run_size, SPAN)
    """The tokens of a piece, which never crosses a page, or a chosen block."""

    comptime stride = Self.CacheType.page_layout.token_stride
    """The elements between two tokens, in pages and in the room."""

    comptime Elements = Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    """Where the tokens of a piece start."""

    var cache: Self.CacheType
    """The layer's keys or values."""

    var seq: Int
    """The sequence."""

    var head: Int
    """The first key-value head."""

    var room: List[Float32]
    """Room for a piece of quantised tokens, `[tokens, stride]`."""

    def __init__(out self, cache: Self.CacheType, *, seq: Int, head: Int):
        """Points at one sequence.

        Args:
            cache: The layer's keys or values.
            seq: The sequence.
            head: The first key-value head.
        """
        self.cache = cache
        self.seq = seq
        self.head = head
        var size = Self.tokens * Self.stride if Self.is_quantized else 0
        self.room = List[Float32](unsafe_uninit_length=size)

    @always_inline
    def _at(
        self, start: Int
    ) -> Pointer[Scalar[Self.kv_dtype], MutUntrackedOrigin]:
        """Returns where a piece starts in its page."""
        return self.cache.block_paged_ptr[Self.tokens](
            self.seq, start, self.head
        )

    @always_inline
    def read(
        mut self, start: Int, *, heads: Int, begin: Int, end: Int
    ) -> Self.Elements:
        """Returns where some tokens of a piece are.

        Args:
            start: The position of the piece, a multiple of `tokens`.
            heads: How many heads will be looked at.
            begin: The first token of the piece that will be.
            end: One behind the last.

        Returns:
            The elements of the piece's first token; the next read may overwrite
            them.
        """
        comptime if Self.is_quantized:
            var room = self.room.unsafe_ptr()
            for token in range(begin, end):
                for head in range(heads):
                    var target = room.unsafe_offset(
                        token * Self.stride + head * Self.kv_params.head_size
                    )
                    read_head(
                        self.cache,
                        target,
                        self.seq,
                        start + token,
                        self.head + head,
                    )
            return rebind[Self.Elements](
                room.unsafe_origin_cast[MutUntrackedOrigin]()
            )
        else:
            return rebind[Self.Elements](self._at(start))

    @always_inline
    def behind(
        self, start: Int, end: Int
    ) -> Pointer[Scalar[Self.kv_dtype], MutUntrackedOrigin]:
        """Returns where the next piece starts in its page.

        Args:
            start: The position of a piece.
            end: One behind the last position that may be read.

        Returns:
            The next piece's elements; behind the last piece, its own.
        """
        var next = start + Self.tokens
        return self._at(next if next < end else start)

    @staticmethod
    @always_inline
    def bring_near[
        dim: Int
    ](
        piece: Pointer[Scalar[Self.kv_dtype], MutUntrackedOrigin],
        *,
        head: Int,
        begin: Int,
        end: Int,
    ):
        """Prefetches one head of a few tokens.

        Pages lie anywhere, so the CPU cannot know where the next one is.

        Parameters:
            dim: The leading elements of the head.

        Args:
            piece: What `behind` returned.
            head: The head, counted from the first.
            begin: The first token of the piece.
            end: One behind the last token.
        """
        comptime step = LINE_BYTES // size_of[Self.kv_dtype]()
        comptime options = PrefetchOptions().for_read().medium_locality()
        var first = piece.unsafe_offset(head * Self.kv_params.head_size)
        for token in range(begin, end):
            comptime for i in range(0, dim, step):
                prefetch[options.to_data_cache()](
                    first.unsafe_offset(token * Self.stride + i)
                )
