"""A view of one layer's keys, or of its values, in the page pool.

The names and the behaviour are those of MAX's `PagedKVCache`. It owns no
memory.
"""

from kv_cache.types import KVCacheStaticParams
from layout import ComptimeInt, Coord, TileTensor
from layout.tile_layout import Layout as TileLayout
from max.gpu.host import DeviceContext
from max.gpu.host.nvidia.tma import TensorMapSwizzle
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder

from .layout import PageLayout
from .quantize import dequantize
from .scales import PageScales, Quantization
from .tensors import (
    LengthsTensor,
    LookupTable,
    lengths_tensor,
    lookup_table_tensor,
)
from .tma import PageTMATile, page_tma_tile


struct PagedKVCache[
    dtype_: DType,
    kv_params_: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization = Quantization(),
    block_size: Int = 0,
](DevicePassable, TrivialRegisterPassable):
    """A view of one layer's keys, or of its values, in the page pool.

    Positions count from a sequence's first token and go through the lookup
    table. Asserts check every index (build with `-D ASSERT=all`).

    With a block size, it shows chosen blocks only: positions count the tokens
    of a sequence's chosen blocks under a head, the table has a row of block ids
    for each sequence and head, and the lengths count the tokens that are shown,
    the new one included. Block `b` of page `p` has the id
    `p * blocks_per_page + b`.

    Parameters:
        dtype_: The element type of the pool.
        kv_params_: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale; without it, elements mean
            themselves.
        block_size: The tokens of a block, where blocks are chosen; it divides
            the page size. 0 where all is shown.
    """

    comptime dtype = Self.dtype_
    """The element type of the pool."""

    comptime kv_params = Self.kv_params_
    """The heads and the head size."""

    comptime page_size_ = Self.page_size
    """The tokens per page."""

    comptime run_size = Self.block_size if Self.block_size else Self.page_size
    """The consecutive tokens that lie together."""

    comptime blocks_per_page = Self.page_size // Self.run_size
    """The blocks of a page."""

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime page_layout = PageLayout[
        Self.page_size, Self.kv_params.num_heads, Self.kv_params.head_size
    ]
    """Where an element lies."""

    comptime quantization_enabled = (
        Self.quantization.granularity != Quantization.NONE
    )
    """Whether an element means its product with a scale."""

    comptime scales_type = PageScales[
        Self.page_size,
        Self.kv_params.num_heads,
        Self.kv_params.head_size,
        Self.quantization,
    ]
    """The view of the scales."""

    comptime scale_dtype = DType.float32
    """The type of a scale."""

    comptime quantization_granularity = Self.scales_type.layout.group_size
    """The elements of a head that share a scale."""

    comptime blocks_shape = Coord[
        Int64,
        ComptimeInt[Self.page_size],
        ComptimeInt[Self.kv_params.num_heads],
        ComptimeInt[Self.kv_params.head_size],
    ]
    """`[num_pages, page_size, num_heads, head_size]`, the first known at run
    time only."""

    comptime blocks_layout = TileLayout[
        shape_types=Self.blocks_shape.element_types,
        stride_types=Coord[
            Int64,
            ComptimeInt[Self.page_layout.token_stride],
            ComptimeInt[Self.kv_params.head_size],
            ComptimeInt[1],
        ].element_types,
    ]
    """The layout of `blocks_shape`; the stride of the first axis spans all
    layers and is known at run time only."""

    comptime blocks_type = TileTensor[
        Self.dtype_, Self.blocks_layout, MutUntrackedOrigin
    ]
    """The view's type."""

    var blocks: Self.blocks_type
    """The pages, as `[num_pages, page_size, num_heads, head_size]`."""

    var cache_lengths: LengthsTensor
    """Tokens cached per sequence before this step: uint32 `[batch_size]`."""

    var lookup_table: LookupTable
    """The pages of each sequence: uint32 `[batch_size, max_pages]`."""

    var max_seq_length: UInt32
    """The most new tokens of any sequence in this step."""

    var max_cache_length: UInt32
    """The most tokens, cached and new, of any sequence in this step."""

    var scales: Self.scales_type
    """The scales of the pages; without quantisation it refers to nothing."""

    def __init__(
        out self,
        blocks: Self.blocks_type,
        cache_lengths: LengthsTensor,
        lookup_table: LookupTable,
        max_seq_length: UInt32,
        max_cache_length: UInt32,
        scales: Self.scales_type = Self.scales_type(),
    ):
        """Wraps the pool and the tables of one step.

        Args:
            blocks: The pages of one layer's keys or values.
            cache_lengths: Tokens cached before this step, `[batch_size]`.
            lookup_table: The pages of each sequence, `[batch_size, max_pages]`.
            max_seq_length: The most new tokens of any sequence.
            max_cache_length: The most tokens, cached and new, of any sequence.
            scales: The scales of the same layer's keys or values.
        """
        self.scales = scales
        self.blocks = blocks
        self.cache_lengths = cache_lengths
        self.lookup_table = lookup_table
        self.max_seq_length = max_seq_length
        self.max_cache_length = max_cache_length

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
        return "PagedKVCache"

    @staticmethod
    def get_device_type_name() -> String:
        """Returns the name of the type that a GPU kernel receives.

        Returns:
            The name: that of this type.
        """
        return Self.get_type_name()

    @staticmethod
    def max_tile_size() -> Int:
        """Returns the most tokens that a tile may span: one page's.

        Returns:
            The page size in tokens.
        """
        return Self.page_size

    @always_inline
    def cache_lengths_nd(self) -> LengthsTensor:
        """Returns the tokens cached per sequence before this step.

        Returns:
            The lengths, uint32 `[batch_size]`.
        """
        return self.cache_lengths

    @always_inline
    def cache_length(self, batch_idx: Int) -> Int:
        """Returns how many tokens of a sequence were cached before this step.

        Args:
            batch_idx: The sequence in `[0, batch_size)`.

        Returns:
            The length in tokens.
        """
        assert (
            0 <= batch_idx < Int(self.cache_lengths.dim[0]())
        ), "batch_idx out of range"
        var length = Int(self.cache_lengths.ptr[unsafe_offset=batch_idx])
        comptime if Self.block_size:
            return length - 1
        return length

    def over_chosen[
        tokens: Int
    ](
        self,
        block_ids: Pointer[UInt32, ImmUntrackedOrigin],
        sparse_lengths: Pointer[UInt32, ImmUntrackedOrigin],
        *,
        width: Int,
        out view: PagedKVCache[
            Self.dtype_,
            Self.kv_params,
            Self.page_size,
            Self.quantization,
            tokens,
        ],
    ):
        """Returns a view that shows chosen blocks only.

        Parameters:
            tokens: The tokens of a block.

        Args:
            block_ids: The chosen blocks, `[batch_size, num_heads, width]`.
            sparse_lengths: Tokens in the chosen blocks, the new one included,
                `[batch_size]`; 0 for sequences that have none chosen.
            width: The most blocks of a sequence.

        Returns:
            The view.

        Constraints:
            The view must show all; the block size must divide the page size.
        """
        comptime assert Self.block_size == 0, "blocks are chosen once"
        comptime assert (
            tokens > 0 and Self.page_size % tokens == 0
        ), "block_size must divide page_size"
        var batch_size = Int(self.cache_lengths.dim[0]())
        view = type_of(view)(
            rebind[type_of(view).blocks_type](self.blocks),
            lengths_tensor(sparse_lengths, batch_size),
            lookup_table_tensor(
                block_ids, batch_size * Self.kv_params.num_heads, width
            ),
            self.max_seq_length,
            self.max_cache_length,
            self.scales,
        )

    @always_inline
    def block(self, batch_idx: Int, head_idx: Int, tok_idx: Int) -> Int:
        """Looks a chosen block up.

        Args:
            batch_idx: The sequence in `[0, batch_size)`.
            head_idx: The key-value head in `[0, num_heads)`.
            tok_idx: A position, counted over chosen blocks.

        Returns:
            The id of the block in which the token is.

        Constraints:
            Blocks must be chosen.
        """
        comptime assert Self.block_size > 0, "wanted chosen blocks"
        assert (
            0 <= batch_idx < Int(self.cache_lengths.dim[0]())
        ), "batch_idx out of range"
        var column = tok_idx // Self.block_size
        assert column < Int(
            self.lookup_table.dim[1]()
        ), "token beyond the chosen blocks"
        var row = batch_idx * Self.kv_params.num_heads + head_idx
        # A kernel before this one may just have written the table.
        return Int(
            self.lookup_table.ptr.unsafe_load[width=1, invariant=False](
                row * Int(self.lookup_table.layout.stride[0]().value()) + column
            )
        )

    @always_inline
    def place_in(self, block: Int, tok_idx: Int) -> Tuple[Int, Int]:
        """Returns where a token is, its block known.

        Args:
            block: The id of the token's block.
            tok_idx: The token's position, counted over chosen blocks.

        Returns:
            The page, and the slot in it.

        Constraints:
            Blocks must be chosen.
        """
        comptime assert Self.block_size > 0, "wanted chosen blocks"
        var page, part = divmod(UInt32(block), UInt32(Self.blocks_per_page))
        assert Int(page) < self.null_page(), "block out of range"
        return (
            Int(page),
            Int(part) * Self.block_size + tok_idx % Self.block_size,
        )

    @always_inline
    def _place(
        self, batch_idx: Int, head_idx: Int, tok_idx: Int
    ) -> Tuple[Int, Int]:
        """Returns a token's page, and its slot there."""
        comptime if Self.block_size:
            return self.place_in(
                self.block(batch_idx, head_idx, tok_idx), tok_idx
            )
        else:
            var column, slot = Self.page_layout.locate(tok_idx)
            return self._page(batch_idx, column), slot

    @always_inline
    def _page(self, batch_idx: Int, column: Int) -> Int:
        """Looks a sequence's page up; a null page or a stray id asserts."""
        assert (
            0 <= batch_idx < Int(self.lookup_table.dim[0]())
        ), "batch_idx out of range"
        assert column < Int(
            self.lookup_table.dim[1]()
        ), "token beyond the lookup table"
        var row = batch_idx * Int(self.lookup_table.layout.stride[0]().value())
        var page = Int(self.lookup_table.ptr[unsafe_offset=row + column])
        assert page < self.null_page(), "page out of range"
        return page

    @always_inline
    def _offset(
        self, batch_idx: Int, head_idx: Int, tok_idx: Int, head_dim_idx: Int
    ) -> Int:
        """Returns an element's offset from the start of the view."""
        assert tok_idx >= 0, "token before the sequence"
        var page, slot = self._place(batch_idx, head_idx, tok_idx)
        var stride = Int(self.blocks.layout.stride[0]().value())
        return Self.page_layout.offset(
            page_offset=page * stride,
            slot=slot,
            head=head_idx,
            dim=head_dim_idx,
        )

    @always_inline
    def null_page(self) -> Int:
        """Returns the page behind the last that sequences may have.

        Returns:
            The page.
        """
        return Int(self.blocks.dim[0]()) - 1

    @always_inline
    def row_pitch(self) -> Int:
        """Returns the rows between the same slots of consecutive pages.

        Returns:
            The rows, in the matrix that `row_idx` speaks of.
        """
        return (
            Int(self.blocks.layout.stride[0]().value())
            // Self.page_layout.token_stride
        )

    @always_inline
    def num_rows(self) -> Int:
        """Returns the rows to the end of the null page.

        Returns:
            The rows of the matrix that `row_idx` speaks of.
        """
        return self.null_page() * self.row_pitch() + Self.page_size

    @always_inline
    def token_offset(self, batch_idx: Int, tok_idx: Int) -> Int:
        """Returns where a token's first head starts, in this view.

        Args:
            batch_idx: The sequence in `[0, batch_size)`.
            tok_idx: The token's position in its sequence.

        Returns:
            The offset in elements from `blocks`; the same for a layer's keys
            and for its values.
        """
        return self._offset(batch_idx, 0, tok_idx, 0)

    @always_inline
    def token_offset_in(self, page: Int, tok_idx: Int) -> Int:
        """Returns where a token's first head starts, its page known.

        Args:
            page: The token's page.
            tok_idx: The token's position in its sequence.

        Returns:
            The offset in elements from `blocks`, as `token_offset` gives it.
        """
        assert page < self.null_page(), "page out of range"
        var _, slot = Self.page_layout.locate(tok_idx)
        var stride = Int(self.blocks.layout.stride[0]().value())
        return Self.page_layout.offset(
            page_offset=page * stride, slot=slot, head=0, dim=0
        )

    @always_inline
    def row_idx(self, batch_idx: UInt32, tok_idx: UInt32) -> UInt32:
        """Returns a token's row in the pool seen as a matrix.

        The matrix has `num_heads * head_size` columns and starts at this view.

        Args:
            batch_idx: The sequence in `[0, batch_size)`.
            tok_idx: The token's position in its sequence.

        Returns:
            The row.

        Preconditions:
            The row must fit 32 bits.
        """
        var offset = self._offset(Int(batch_idx), 0, Int(tok_idx), 0)
        var row = offset // Self.page_layout.token_stride
        assert row < (1 << 32), "row does not fit 32 bits"
        return UInt32(row)

    @always_inline
    def col_idx(self, head_idx: UInt32) -> UInt32:
        """Returns a head's first column in the pool seen as a matrix.

        Args:
            head_idx: The key-value head in `[0, num_heads)`.

        Returns:
            The column.
        """
        assert Int(head_idx) < Self.kv_params.num_heads, "head out of range"
        return head_idx * UInt32(Self.kv_params.head_size)

    def create_tma_tile[
        tile_m: Int,
        tile_n: Int,
        swizzle_mode: TensorMapSwizzle,
        *,
        is_k_major: Bool,
    ](self, ctx: DeviceContext) raises -> PageTMATile[
        Self.dtype_, tile_m, tile_n, swizzle_mode, is_k_major
    ]:
        """Describes tiles of the pool for copies into shared memory.

        `async_copy` takes a tile's first column and row: `col_idx` of its head
        and `row_idx` of its first token, which must be a multiple of `tile_m`.
        Tiles are written as `PageTMATile` says.

        Parameters:
            tile_m: The tokens of a tile; they must divide the page size.
            tile_n: The columns of a tile, which are elements of its heads; a
                multiple of the swizzle's span.
            swizzle_mode: How shared memory is permuted.
            is_k_major: Whether the elements of a head are the axis that a
                product sums over (keys), or its tokens are (values).

        Args:
            ctx: The GPU.

        Returns:
            The descriptor.

        Raises:
            If the device is not an NVIDIA GPU of compute capability 9.0 or
            later, the pool has more than 2**31 rows, or its rows are not
            aligned to 16 bytes.
        """
        return page_tma_tile[
            tile_m,
            tile_n,
            swizzle_mode,
            is_k_major=is_k_major,
            page_size=Self.page_size,
            row_size=Self.page_layout.token_stride,
        ](self.blocks.ptr, self.num_rows(), ctx)

    @always_inline
    def load[
        width: Int
    ](self, bs: Int, head_idx: Int, tok_idx: Int, head_dim_idx: Int) -> SIMD[
        Self.dtype_, width
    ]:
        """Loads consecutive elements of one head.

        Parameters:
            width: How many elements.

        Args:
            bs: The sequence in `[0, batch_size)`.
            head_idx: The key-value head in `[0, num_heads)`.
            tok_idx: The token's position in its sequence.
            head_dim_idx: The first element of the head.

        Returns:
            The elements.

        Preconditions:
            `head_dim_idx + width` must not exceed the head size.
        """
        var offset = self._offset(bs, head_idx, tok_idx, head_dim_idx)
        assert (
            head_dim_idx + width <= Self.kv_params.head_size
        ), "load crosses the end of the head"
        return self.blocks.ptr.unsafe_load[width=width](offset)

    @always_inline
    def load[
        width: Int, output_dtype: DType
    ](self, bs: Int, head_idx: Int, tok_idx: Int, head_dim_idx: Int) -> SIMD[
        output_dtype, width
    ]:
        """Loads what consecutive elements of one head mean.

        Parameters:
            width: How many elements; they must share a scale.
            output_dtype: The type to round to.

        Args:
            bs: The sequence in `[0, batch_size)`.
            head_idx: The key-value head in `[0, num_heads)`.
            tok_idx: The token's position in its sequence.
            head_dim_idx: The first element of the head.

        Returns:
            The elements times their scale, if the cache is quantised.
        """
        var codes = self.load[width](bs, head_idx, tok_idx, head_dim_idx)
        comptime if Self.quantization_enabled:
            var scale = self.load_scale[1](bs, head_idx, tok_idx, head_dim_idx)
            comptime group = Self.quantization_granularity
            assert head_dim_idx % group + width <= group, "load crosses a group"
            return dequantize(codes, scale).cast[output_dtype]()
        else:
            return codes.cast[output_dtype]()

    @always_inline
    def load_quantized[
        width: Int
    ](self, bs: Int, head_idx: Int, tok_idx: Int, head_dim_idx: Int) -> SIMD[
        Self.dtype_, width
    ]:
        """Loads the codes of consecutive elements of one head.

        Parameters:
            width: How many elements.

        Args:
            bs: The sequence in `[0, batch_size)`.
            head_idx: The key-value head in `[0, num_heads)`.
            tok_idx: The token's position in its sequence.
            head_dim_idx: The first element of the head.

        Returns:
            The codes.

        Constraints:
            The cache must be quantised.
        """
        comptime assert Self.quantization_enabled, "wanted a quantised cache"
        return self.load[width](bs, head_idx, tok_idx, head_dim_idx)

    @always_inline
    def scales_block_paged_ptr(
        self,
        batch_idx: Int,
        start_tok_idx: Int,
        head_idx: Int,
        head_dim_idx: Int = 0,
    ) -> Pointer[Float32, MutUntrackedOrigin]:
        """Returns where an element's scale is.

        Args:
            batch_idx: The sequence in `[0, batch_size)`.
            start_tok_idx: The token's position in its sequence.
            head_idx: The key-value head in `[0, num_heads)`.
            head_dim_idx: The element of the head.

        Returns:
            A pointer to the scale; those of the head's next groups follow.

        Constraints:
            The cache must be quantised.
        """
        var page, slot = self._place(batch_idx, head_idx, start_tok_idx)
        return self.scales.address(
            page=page, slot=slot, head=head_idx, dim=head_dim_idx
        )

    @always_inline
    def load_scale[
        width: Int
    ](self, bs: Int, head_idx: Int, tok_idx: Int, head_dim_idx: Int) -> SIMD[
        Self.scale_dtype, width
    ]:
        """Loads the scales of consecutive groups of one head.

        Parameters:
            width: How many groups.

        Args:
            bs: The sequence in `[0, batch_size)`.
            head_idx: The key-value head in `[0, num_heads)`.
            tok_idx: The token's position in its sequence.
            head_dim_idx: An element of the first group.

        Returns:
            The scales.

        Constraints:
            The cache must be quantised.
        """
        return self.scales_block_paged_ptr(
            bs, tok_idx, head_idx, head_dim_idx
        ).unsafe_load[width=width]()

    @always_inline
    def store_scale(
        self,
        bs: Int,
        head_idx: Int,
        tok_idx: Int,
        head_dim_idx: Int,
        scales: SIMD[Self.scale_dtype, _],
    ):
        """Stores the scales of consecutive groups of one head.

        Args:
            bs: The sequence in `[0, batch_size)`.
            head_idx: The key-value head in `[0, num_heads)`.
            tok_idx: The token's position in its sequence.
            head_dim_idx: An element of the first group.
            scales: The scales; a page has one for all its tokens, or for all
                its heads, where the granularity says so.

        Constraints:
            The cache must be quantised.
        """
        self.scales_block_paged_ptr(
            bs, tok_idx, head_idx, head_dim_idx
        ).unsafe_store(scales)

    @always_inline
    def store[
        width: SIMDLength, //
    ](
        self,
        bs: Int,
        head_idx: Int,
        tok_idx: Int,
        head_dim_idx: Int,
        val: SIMD[Self.dtype_, width],
    ):
        """Stores consecutive elements of one head.

        Parameters:
            width: How many elements.

        Args:
            bs: The sequence in `[0, batch_size)`.
            head_idx: The key-value head in `[0, num_heads)`.
            tok_idx: The token's position in its sequence.
            head_dim_idx: The first element of the head.
            val: The elements.

        Preconditions:
            `head_dim_idx + width` must not exceed the head size.
        """
        var offset = self._offset(bs, head_idx, tok_idx, head_dim_idx)
        assert (
            head_dim_idx + Int(width) <= Self.kv_params.head_size
        ), "store crosses the end of the head"
        self.blocks.ptr.unsafe_store(offset, val)

    @always_inline
    def block_paged_ptr[
        tile_size: Int
    ](
        self,
        batch_idx: Int,
        start_tok_idx: Int,
        head_idx: Int,
        head_dim_idx: Int = 0,
    ) -> Pointer[Scalar[Self.dtype_], MutUntrackedOrigin]:
        """Returns where a tile of consecutive tokens starts.

        The tile's tokens are `num_heads * head_size` elements apart.

        Parameters:
            tile_size: The tokens in the tile; it must divide the page size,
                or the block size where blocks are chosen.

        Args:
            batch_idx: The sequence in `[0, batch_size)`.
            start_tok_idx: The position of the tile's first token, a multiple
                of `tile_size`.
            head_idx: The key-value head in `[0, num_heads)`.
            head_dim_idx: The element of the head.

        Returns:
            A pointer to that element of the tile's first token.
        """
        comptime assert (
            tile_size <= Self.run_size and Self.run_size % tile_size == 0
        ), "tile_size must divide page_size, or block_size"
        assert start_tok_idx % tile_size == 0, "tile crosses a page"
        return self.blocks.ptr.unsafe_offset(
            self._offset(batch_idx, head_idx, start_tok_idx, head_dim_idx)
        )

    @always_inline
    def empty_cache(self) -> Bool:
        """Returns whether there is nothing at all to attend to.

        Returns:
            True if no sequence has any token, cached or new.
        """
        return self.max_cache_length == 0

    @always_inline
    def max_prompt_length(self) -> UInt32:
        """Returns the most new tokens of any sequence in this step.

        Returns:
            The length in tokens.
        """
        return self.max_seq_length

    @always_inline
    def max_context_length(self) -> UInt32:
        """Returns the most tokens, cached and new, of any sequence.

        Returns:
            The length in tokens.
        """
        return self.max_cache_length
