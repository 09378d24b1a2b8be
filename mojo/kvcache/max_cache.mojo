"""Our views as MAX's own kernels take them.

`PagedKVCache` keeps the seed's names, with which MAX 26.7's trait `KVCacheT`
clashes (`cache_lengths_nd`, `create_tma_tile`). `MaxKVCache` and
`MaxKVCollection` hold our views and answer for them:

| member of the trait | what it is here |
|---|---|
| `dtype`, `kv_params`, `page_size_`, `max_tile_size` | the view's |
| `cache_length`, `cache_lengths_nd` | the view's |
| `empty_cache`, `max_prompt_length`, `max_context_length` | the view's |
| `load`, `store`, `block_paged_ptr`, `row_idx` | the view's; `load` casts |
| `block_paged_storage` | `block_paged_ptr` |
| `blocks_raw_ptr` | where the view starts |
| `num_kv_rows` | the view's rows, to the end of its last page |
| `get_tma_row` | the row of a slot, given as page times page size plus slot |
| `populate` | the row where each page of a tile of keys starts |
| `create_tma_tile` | boxes of `BN` tokens of one head |
| `load_scale`, `store_scale`, `load_quantized`, `scale_row_idx`, \
`scales_block_paged_ptr` | do not compile: elements mean themselves |
| `scales_raw_ptr` | points nowhere |
| `create_paged_tma_tile`, `create_gather4_tma_tile`, \
`create_index_scale_tma_tile`, `create_rope_tma_tile`, \
`create_rope_gather4_tma_tile` | raise: for later GPUs or other rows |

Where MAX's own struct reads the lookup table in vectors, and so asks for spare
columns (`max.nn.kv_cache.padded_lut_cols`), `populate` reads entry by entry and
none past the table's last column. A column without a page of the pool, the null
page included, counts as rows behind the pool, which tensor memory copies as
zeros.
"""

from kv_cache.types import (
    KVCacheStaticParams,
    KVCacheT,
    KVCollectionT,
    PagedRowIndices,
    SplitLastDimTMATensorTile,
    _gather4_box_width,
    flat_scale_window,
    padded_depth,
)
from layout import (
    ComptimeInt,
    Coord,
    DefaultEngine,
    TensorEngine,
    TileTensor,
    coord,
)
from layout.tma_async import (
    TMATensorTile,
    create_split_tma,
)
from max.gpu.host import DeviceContext
from max.gpu.host.nvidia.tma import TensorMapL2Promotion, TensorMapSwizzle
from std.builtin.device_passable import DeviceTypeEncoder
from std.memory import AddressSpace
from std.sys import size_of

from .cache import PagedKVCache
from .collection import PagedKVCacheCollection
from .tensors import RowLayout
from .tma import check_tma_device, check_tma_pool


def _missing(member: StaticString) -> Error:
    """Returns the error of a member that no kernel here calls."""
    return Error(t"{member} is not there: Hopper's attention calls none")


struct MaxKVCache[
    dtype_: DType, kv_params_: KVCacheStaticParams, page_size: Int
](KVCacheT):
    """One layer's keys, or its values, for MAX's kernels.

    The module says what each member is.

    Parameters:
        dtype_: The element type of the pool.
        kv_params_: The heads and the head size.
        page_size: The tokens per page.
    """

    comptime Cache = PagedKVCache[Self.dtype_, Self.kv_params_, Self.page_size]
    """The view's type."""

    comptime dtype = Self.dtype_
    """The element type of the pool."""

    comptime kv_params = Self.kv_params_
    """The heads and the head size."""

    comptime page_size_ = Self.page_size
    """The tokens per page."""

    comptime scale_dtype = DType.float32
    """The type of scales, of which there are none."""

    comptime quantization_enabled = False
    """Whether elements have scales: never."""

    comptime quantization_granularity = 1
    """The elements that would share a scale."""

    comptime Engine: TensorEngine = DefaultEngine[]
    """How the pool is read: through plain pointers."""

    comptime cache_lengths_engine: TensorEngine = DefaultEngine[]
    """How lengths are read: through plain pointers."""

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime token_stride = Self.Cache.page_layout.token_stride
    """The elements of a row."""

    var cache: Self.Cache
    """The view."""

    def __init__(out self, cache: Self.Cache):
        """Wraps a view.

        Args:
            cache: The view.
        """
        self.cache = cache

    def _to_device_type(
        self, mut encoder: Some[DeviceTypeEncoder], target: MutOpaquePointer[_]
    ):
        encoder.encode(self, target)

    @doc_hidden
    @staticmethod
    def get_type_name() -> String:
        return "MaxKVCache"

    @doc_hidden
    @staticmethod
    def max_tile_size() -> Int:
        return Self.page_size

    @doc_hidden
    @always_inline
    def cache_lengths_nd(
        self,
    ) -> TileTensor[
        DType.uint32,
        RowLayout,
        ImmutAnyOrigin,
        Engine=Self.cache_lengths_engine,
    ]:
        var lengths = self.cache.cache_lengths
        return {
            ptr = lengths.ptr.as_unsafe_any_origin(),
            layout = lengths.layout,
        }

    @doc_hidden
    @always_inline
    def cache_length(self, batch_idx: Int) -> Int:
        return self.cache.cache_length(batch_idx)

    @doc_hidden
    @always_inline
    def load[
        width: Int, output_dtype: DType = Self.dtype
    ](self, bs: Int, head_idx: Int, tok_idx: Int, head_dim_idx: Int) -> SIMD[
        output_dtype, width
    ]:
        return self.cache.load[width](bs, head_idx, tok_idx, head_dim_idx).cast[
            output_dtype
        ]()

    @doc_hidden
    @always_inline
    def store(
        self,
        bs: Int,
        head_idx: Int,
        tok_idx: Int,
        head_dim_idx: Int,
        val: SIMD[Self.dtype, ...],
    ):
        self.cache.store(bs, head_idx, tok_idx, head_dim_idx, val)

    @doc_hidden
    @always_inline
    def store_scale[
        scales_dtype: DType = Self.scale_dtype, width: Int = 1
    ](
        self,
        bs: Int,
        head_idx: Int,
        tok_idx: Int,
        head_dim_idx: Int,
        scales: SIMD[scales_dtype, width],
    ):
        comptime assert False, "this cache has no scales"

    @doc_hidden
    @always_inline
    def load_scale[
        width: Int
    ](self, bs: Int, head_idx: Int, tok_idx: Int, head_dim_idx: Int) -> SIMD[
        Self.scale_dtype, width
    ]:
        comptime assert False, "this cache has no scales"

    @doc_hidden
    @always_inline
    def load_quantized[
        width: Int
    ](self, bs: Int, head_idx: Int, tok_idx: Int, head_dim_idx: Int) -> SIMD[
        Self.dtype, width
    ]:
        comptime assert False, "this cache has no scales"

    @doc_hidden
    @always_inline
    def empty_cache(self) -> Bool:
        return self.cache.empty_cache()

    @doc_hidden
    @always_inline
    def max_prompt_length(self) -> UInt32:
        return self.cache.max_prompt_length()

    @doc_hidden
    @always_inline
    def max_context_length(self) -> UInt32:
        return self.cache.max_context_length()

    @doc_hidden
    @always_inline
    def block_paged_ptr[
        tile_size: Int
    ](
        self,
        batch_idx: Int,
        start_tok_idx: Int,
        head_idx: Int,
        head_dim_idx: Int = 0,
    ) -> Pointer[Scalar[Self.dtype], MutAnyOrigin]:
        return self.cache.block_paged_ptr[tile_size](
            batch_idx, start_tok_idx, head_idx, head_dim_idx
        ).as_unsafe_any_origin()

    @doc_hidden
    @always_inline
    def block_paged_storage[
        tile_size: Int
    ](
        self,
        batch_idx: Int,
        start_tok_idx: Int,
        head_idx: Int,
        head_dim_idx: Int = 0,
    ) -> Self.Engine.StorageType[
        Self.dtype, MutAnyOrigin, AddressSpace.GENERIC
    ]:
        return self.block_paged_ptr[tile_size](
            batch_idx, start_tok_idx, head_idx, head_dim_idx
        )

    @doc_hidden
    @always_inline
    def scales_block_paged_ptr(
        self,
        batch_idx: Int,
        start_tok_idx: Int,
        head_idx: Int,
        head_dim_idx: Int = 0,
    ) -> Pointer[Scalar[Self.scale_dtype], MutAnyOrigin]:
        comptime assert False, "this cache has no scales"

    @doc_hidden
    @always_inline
    def scales_raw_ptr(self) -> Pointer[Scalar[Self.scale_dtype], MutAnyOrigin]:
        return Pointer[Scalar[Self.scale_dtype], MutAnyOrigin].unsafe_dangling()

    @doc_hidden
    @always_inline
    def blocks_raw_ptr(self) -> Pointer[Scalar[Self.dtype], MutAnyOrigin]:
        return self.cache.blocks.ptr.as_unsafe_any_origin()

    @doc_hidden
    @always_inline
    def num_kv_rows(self) -> Int:
        return self.cache.num_rows()

    @doc_hidden
    @always_inline
    def row_idx(self, batch_idx: UInt32, start_tok_idx: UInt32) -> UInt32:
        return self.cache.row_idx(batch_idx, start_tok_idx)

    @doc_hidden
    @always_inline
    def scale_row_idx(self, batch_idx: UInt32, start_tok_idx: UInt32) -> UInt32:
        comptime assert False, "this cache has no scales"

    @doc_hidden
    @always_inline
    def get_tma_row(self, encoded_index: Int32) -> Int32:
        var page, slot = divmod(Int(encoded_index), Self.page_size)
        return Int32(page * self.cache.row_pitch() + slot)

    @doc_hidden
    @always_inline
    def populate[
        BN: Int,
        base_alignment: Int,
        pair_cta: Bool = False,
        is_leader: Bool = True,
    ](
        self,
        batch_idx: UInt32,
        base_kv_row: UInt32,
        out rows: PagedRowIndices[BN, Self.page_size_, pair_cta, is_leader],
    ):
        comptime Rows = type_of(rows)
        rows = Rows()
        comptime for i in range(Rows.num_pages):
            rows.rows[i] = self._tma_row(
                Int(batch_idx), Int(base_kv_row) + i * Rows.eff_page
            )

    @always_inline
    def _tma_row(self, batch_idx: Int, position: Int) -> UInt32:
        """Returns the row of a position, or one behind the pool."""
        var column, slot = Self.Cache.page_layout.locate(position)
        var table = self.cache.lookup_table
        if column >= Int(table.dim[1]()):
            return UInt32(self.num_kv_rows())
        var row = batch_idx * Int(table.layout.stride[0]().value())
        var page = Int(table.ptr[unsafe_offset=row + column])
        if page >= self.cache.null_page():
            return UInt32(self.num_kv_rows())
        return UInt32(page * self.cache.row_pitch() + slot)

    @doc_hidden
    def create_paged_tma_tile[
        swizzle_mode: TensorMapSwizzle,
        *,
        BN: Int,
        BK: Int = padded_depth[
            Self.dtype, swizzle_mode, Self.kv_params.head_size
        ](),
        pool_row_tokens: Int = 1,
    ](self, ctx: DeviceContext) raises -> TMATensorTile[
        Self.dtype, coord[1, BN, 1, BK]
    ]:
        raise _missing("create_paged_tma_tile")

    @doc_hidden
    def create_tma_tile[
        swizzle_mode: TensorMapSwizzle,
        *,
        BN: Int,
        BK: Int = padded_depth[
            Self.dtype, swizzle_mode, Self.kv_params.head_size
        ](),
        fold_chunks: Int = 1,
        row_major: Bool = False,
    ](self, ctx: DeviceContext) raises -> SplitLastDimTMATensorTile[
        Self.dtype, coord[BN, 1, BK], swizzle_mode
    ]:
        check_tma_device(ctx)
        check_tma_pool(
            num_rows=self.num_kv_rows(),
            row_bytes=Self.token_stride * size_of[Self.dtype](),
            address=Int(self.cache.blocks.ptr),
        )
        return create_split_tma[
            coord[BN, 1, BK],
            Coord(
                Int64(0),
                ComptimeInt[Self.kv_params.num_heads](),
                ComptimeInt[Self.kv_params.head_size](),
            ),
            swizzle_mode,
            fold_chunks=fold_chunks,
            row_major=row_major,
        ](ctx, self.cache.blocks.ptr, self.num_kv_rows())

    @doc_hidden
    def create_index_scale_tma_tile[
        TILE: Int
    ](self, ctx: DeviceContext) raises -> TMATensorTile[
        Self.scale_dtype, coord[1, flat_scale_window[Self.scale_dtype, TILE]()]
    ]:
        raise _missing("create_index_scale_tma_tile")

    @doc_hidden
    def create_rope_tma_tile[
        swizzle_mode: TensorMapSwizzle, *, BN: Int, BK: Int, padded_depth: Int
    ](self, ctx: DeviceContext) raises -> SplitLastDimTMATensorTile[
        DType.bfloat16, coord[BN, 1, BK], swizzle_mode
    ]:
        raise _missing("create_rope_tma_tile")

    @doc_hidden
    def create_gather4_tma_tile[
        *,
        tile_height: Int = 4,
        tile_width: Int,
        tile_stride: Int = tile_width,
        swizzle_mode: TensorMapSwizzle = TensorMapSwizzle.SWIZZLE_NONE,
        tma_dtype: DType = Self.dtype,
        l2_promotion: TensorMapL2Promotion = TensorMapL2Promotion.NONE,
    ](self, ctx: DeviceContext) raises -> TMATensorTile[
        tma_dtype,
        coord[
            tile_height,
            _gather4_box_width[tma_dtype, tile_width, swizzle_mode](),
        ],
        coord[1, _gather4_box_width[tma_dtype, tile_width, swizzle_mode]()],
    ]:
        raise _missing("create_gather4_tma_tile")

    @doc_hidden
    def create_rope_gather4_tma_tile[
        *,
        tile_height: Int = 4,
        tile_width: Int,
        padded_depth: Int,
        swizzle_mode: TensorMapSwizzle = TensorMapSwizzle.SWIZZLE_NONE,
        l2_promotion: TensorMapL2Promotion = TensorMapL2Promotion.NONE,
    ](self, ctx: DeviceContext) raises -> TMATensorTile[
        DType.bfloat16,
        coord[
            tile_height,
            _gather4_box_width[DType.bfloat16, tile_width, swizzle_mode](),
        ],
        coord[
            1, _gather4_box_width[DType.bfloat16, tile_width, swizzle_mode]()
        ],
    ]:
        raise _missing("create_rope_gather4_tma_tile")


struct MaxKVCollection[
    dtype_: DType, kv_params_: KVCacheStaticParams, page_size: Int
](KVCollectionT):
    """The whole page pool for MAX's kernels.

    Parameters:
        dtype_: The element type of the pool.
        kv_params_: The heads and the head size.
        page_size: The tokens per page.
    """

    comptime CacheType = MaxKVCache[
        Self.dtype_, Self.kv_params_, Self.page_size
    ]
    """The view of one layer's keys or values."""

    comptime name_str = "paged"
    """The name of this kind of cache."""

    comptime dtype = Self.dtype_
    """The element type of the pool."""

    comptime kv_params = Self.kv_params_
    """The heads and the head size."""

    comptime Collection = PagedKVCacheCollection[
        Self.dtype_, Self.kv_params_, Self.page_size
    ]
    """The type of what is wrapped."""

    var collection: Self.Collection
    """The pool with the tables of one step."""

    def __init__(out self, collection: Self.Collection):
        """Wraps the pool with the tables of one step.

        Args:
            collection: The pool with its tables.
        """
        self.collection = collection

    @doc_hidden
    def get_key_cache(self, layer_idx: Int) -> Self.CacheType:
        return Self.CacheType(self.collection.get_key_cache(layer_idx))

    @doc_hidden
    def get_value_cache(self, layer_idx: Int) -> Self.CacheType:
        return Self.CacheType(self.collection.get_value_cache(layer_idx))

    @doc_hidden
    def cache_length(self, bs_idx: Int) -> Int:
        return self.collection.cache_length(bs_idx)
