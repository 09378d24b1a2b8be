"""The whole page pool with the tables of one step.

The names and the behaviour are those of MAX's `PagedKVCacheCollection`. It
owns no memory.
"""

from kv_cache.types import KVCacheStaticParams
from layout import ComptimeInt, Coord, TileTensor
from layout.tile_layout import Layout as TileLayout
from std.collections import OptionalReg

from .cache import PagedKVCache
from .scales import Quantization
from .tensors import LengthsTensor, LookupTable


struct PagedKVCacheCollection[
    dtype_: DType,
    kv_params_: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization = Quantization(),
](TrivialRegisterPassable):
    """The whole page pool with the tables of one step.

    Parameters:
        dtype_: The element type of the pool.
        kv_params_: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale; without it, elements mean
            themselves.
    """

    comptime dtype = Self.dtype_
    """The element type of the pool."""

    comptime kv_params = Self.kv_params_
    """The heads and the head size."""

    comptime CacheType = PagedKVCache[
        Self.dtype_, Self.kv_params_, Self.page_size, Self.quantization
    ]
    """The view of one layer's keys or values."""

    comptime name_str = "paged"
    """The name of this kind of cache."""

    comptime kv_dim = 1 if Self.kv_params_.is_mla else 2
    """2 for keys and values, 1 for MLA."""

    comptime blocks_shape = Coord[
        Int64,
        ComptimeInt[Self.kv_dim],
        Int64,
        ComptimeInt[Self.page_size],
        ComptimeInt[Self.kv_params.num_heads],
        ComptimeInt[Self.kv_params.head_size],
    ]
    """`[num_pages, kv_dim, num_layers, page_size, num_heads, head_size]`; the
    pages and layers are known at run time only."""

    comptime blocks_layout = TileLayout[
        shape_types=Self.blocks_shape.element_types,
        stride_types=Coord[
            Int64,
            Int64,
            ComptimeInt[Self.CacheType.page_layout.plane_stride],
            ComptimeInt[Self.CacheType.page_layout.token_stride],
            ComptimeInt[Self.kv_params.head_size],
            ComptimeInt[1],
        ].element_types,
    ]
    """The row-major layout of `blocks_shape`."""

    comptime blocks_type = TileTensor[
        Self.dtype_, Self.blocks_layout, MutUntrackedOrigin
    ]
    """The pool's type."""

    var blocks: Self.blocks_type
    """The pool, `[num_pages, kv_dim, num_layers, page_size, num_heads,
    head_size]`, its last page the null page."""

    var cache_lengths: LengthsTensor
    """Tokens cached per sequence before this step: uint32 `[batch_size]`."""

    var lookup_table: LookupTable
    """The pages of each sequence: uint32 `[batch_size, max_pages]`."""

    var max_seq_length: UInt32
    """The most new tokens of any sequence in this step."""

    var max_cache_length: UInt32
    """The most tokens, cached and new, of any sequence in this step."""

    var kv_scales: OptionalReg[Pointer[Float32, MutUntrackedOrigin]]
    """The pool of scales, as `scales.mojo` describes it; none without
    quantisation."""

    def __init__(
        out self,
        blocks: Self.blocks_type,
        cache_lengths: LengthsTensor,
        lookup_table: LookupTable,
        max_seq_length: UInt32,
        max_cache_length: UInt32,
        kv_scales: OptionalReg[Pointer[Float32, MutUntrackedOrigin]] = None,
    ):
        """Wraps the pool and the tables of one step.

        Args:
            blocks: The pool.
            cache_lengths: Tokens cached before this step, `[batch_size]`.
            lookup_table: The pages of each sequence, `[batch_size, max_pages]`.
            max_seq_length: The most new tokens of any sequence.
            max_cache_length: The most tokens, cached and new, of any sequence.
            kv_scales: The pool of scales' first, if the cache is quantised.
        """
        self.blocks = blocks
        self.cache_lengths = cache_lengths
        self.lookup_table = lookup_table
        self.max_seq_length = max_seq_length
        self.max_cache_length = max_cache_length
        self.kv_scales = kv_scales

    def __init__(
        out self,
        kv_blocks: Pointer[Scalar[Self.dtype_], MutUntrackedOrigin],
        *,
        num_pages: Int,
        num_layers: Int,
        cache_lengths: LengthsTensor,
        lookup_table: LookupTable,
        max_seq_length: UInt32,
        max_cache_length: UInt32,
        kv_scales: OptionalReg[Pointer[Float32, MutUntrackedOrigin]] = None,
    ):
        """Wraps a row-major pool and the tables of one step.

        Args:
            kv_blocks: The pool's first element.
            num_pages: The pages in the pool, the null page included.
            num_layers: The layers in the pool.
            cache_lengths: Tokens cached before this step, `[batch_size]`.
            lookup_table: The pages of each sequence, `[batch_size, max_pages]`.
            max_seq_length: The most new tokens of any sequence.
            max_cache_length: The most tokens, cached and new, of any sequence.
            kv_scales: The pool of scales' first, if the cache is quantised.
        """
        comptime Blocks = Self.blocks_layout
        comptime pages = Self.CacheType.page_layout
        var shape = Coord[*Blocks.shape_types]()
        var stride = Coord[*Blocks.stride_types]()
        shape[0] = rebind[shape.element_types[0]](Int64(num_pages))
        shape[2] = rebind[shape.element_types[2]](Int64(num_layers))
        stride[0] = rebind[stride.element_types[0]](
            Int64(pages.page_stride(kv_dim=Self.kv_dim, num_layers=num_layers))
        )
        stride[1] = rebind[stride.element_types[1]](
            Int64(num_layers * pages.plane_stride)
        )
        self = Self(
            Self.blocks_type(ptr=kv_blocks, layout=Blocks(shape, stride)),
            cache_lengths,
            lookup_table,
            max_seq_length,
            max_cache_length,
            kv_scales,
        )

    def get_key_cache(self, layer_idx: Int) -> Self.CacheType:
        """Returns the view of one layer's keys.

        Args:
            layer_idx: The layer in `[0, num_layers)`.

        Returns:
            The view.
        """
        return self._view(kv=0, layer=layer_idx)

    def get_value_cache(self, layer_idx: Int) -> Self.CacheType:
        """Returns the view of one layer's values.

        Args:
            layer_idx: The layer in `[0, num_layers)`.

        Returns:
            The view.

        Constraints:
            An MLA cache has no values.
        """
        comptime assert (
            not Self.kv_params_.is_mla
        ), "Cannot call get_value_cache for MLA cache"
        return self._view(kv=1, layer=layer_idx)

    def cache_length(self, bs_idx: Int) -> Int:
        """Returns how many tokens of a sequence were cached before this step.

        Args:
            bs_idx: The sequence in `[0, batch_size)`.

        Returns:
            The length in tokens.
        """
        assert (
            0 <= bs_idx < Int(self.cache_lengths.dim[0]())
        ), "batch_idx out of range"
        return Int(self.cache_lengths.ptr[unsafe_offset=bs_idx])

    def _view(self, *, kv: Int, layer: Int) -> Self.CacheType:
        """Cuts one layer's keys or values out of the pool."""
        comptime Blocks = Self.CacheType.blocks_layout
        var shape = Coord[*Blocks.shape_types]()
        var stride = Coord[*Blocks.stride_types]()
        shape[0] = rebind[shape.element_types[0]](self.blocks.dim[0]())
        stride[0] = rebind[stride.element_types[0]](
            self.blocks.layout.stride[0]()
        )
        var start = Self.CacheType.page_layout.plane_offset(
            kv=kv, layer=layer, num_layers=Int(self.blocks.dim[2]())
        )
        return Self.CacheType(
            Self.CacheType.blocks_type(
                ptr=self.blocks.ptr.unsafe_offset(start),
                layout=Blocks(shape, stride),
            ),
            self.cache_lengths,
            self.lookup_table,
            self.max_seq_length,
            self.max_cache_length,
            Self.CacheType.scales_type(
                self.kv_scales,
                kv=kv,
                layer=layer,
                kv_dim=Self.kv_dim,
                num_layers=Int(self.blocks.dim[2]()),
            ),
        )
