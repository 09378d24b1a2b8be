"""Where the tiles of a block are in memory.

A block is `block_size` consecutive tokens of one sequence; it never crosses a
page. Each field of the summaries has a pool of its own, row-major `[num_pages +
1, num_layers, blocks_per_page, num_kv_heads, rows, columns]`, under the same
page ids as the keys and values. All offsets are 64-bit.
"""

from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.collections import OptionalReg

from .layout import PageLayout
from .quantize import dequantize
from .scales import PageScales, Quantization, ScaleLayout
from .tiles import Tile, vector_alignment


@fieldwise_init
struct BlockPlace(TrivialRegisterPassable):
    """One block of one layer and key-value head."""

    var page: Int
    """The page that the block is in."""

    var block: Int
    """Its place in the page, in `[0, blocks_per_page)`."""

    var layer: Int
    """The layer."""

    var head: Int
    """The key-value head."""

    @always_inline
    def of_head(self, head: Int) -> Self:
        """Returns the same block of another head.

        Args:
            head: The key-value head.

        Returns:
            The place.
        """
        return Self(self.page, self.block, self.layer, head)


struct FieldPool[
    dtype: DType,
    rows: Int,
    columns: Int,
    blocks_per_page: Int,
    num_kv_heads: Int,
](DevicePassable, TrivialRegisterPassable):
    """The pool of one field of the summaries.

    Parameters:
        dtype: The element type.
        rows: The rows of each block's tile.
        columns: The columns of each block's tile.
        blocks_per_page: The blocks of a page.
        num_kv_heads: The key-value heads held on this device.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime TileType = Tile[Self.dtype, Self.columns]
    """A block's tile."""

    var first: Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    """The pool's first element."""

    var num_layers: Int64
    """The layers in the pool."""

    def __init__(
        out self,
        first: Pointer[Scalar[Self.dtype], MutUntrackedOrigin],
        num_layers: Int,
    ):
        """Wraps a pool.

        Args:
            first: The pool's first element.
            num_layers: The layers in the pool.
        """
        self.first = first
        self.num_layers = Int64(num_layers)

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
        return "FieldPool"

    @always_inline
    def tile(self, at: BlockPlace) -> Self.TileType:
        """Returns a block's tile.

        Args:
            at: The block.

        Returns:
            The tile.
        """
        assert 0 <= at.block < Self.blocks_per_page, "block out of range"
        assert 0 <= at.head < Self.num_kv_heads, "head out of range"
        var plane = at.page * Int(self.num_layers) + at.layer
        var block = plane * Self.blocks_per_page + at.block
        var tile = block * Self.num_kv_heads + at.head
        return {self.first.unsafe_offset(tile * (Self.rows * Self.columns))}


struct TokenTile[
    dtype: DType,
    page_size: Int,
    num_kv_heads: Int,
    head_dim: Int,
    quantization: Quantization,
](TrivialRegisterPassable):
    """The keys, or values, of one block and head: a row for each token.

    Parameters:
        dtype: The element type of the pool.
        page_size: The tokens per page.
        num_kv_heads: The key-value heads held on this device.
        head_dim: The elements per head.
        quantization: Which elements share a scale.
    """

    comptime Plane = PageLayout[
        Self.page_size, Self.num_kv_heads, Self.head_dim
    ]
    """Where an element lies."""

    comptime Scales = ScaleLayout[
        Self.page_size, Self.num_kv_heads, Self.head_dim, Self.quantization
    ]
    """Where a scale lies."""

    comptime is_quantized = (Self.quantization.granularity != Quantization.NONE)
    """Whether an element means its product with a scale."""

    var first: Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    """The first token's first element."""

    var scales: OptionalReg[Pointer[Float32, MutUntrackedOrigin]]
    """The first token's first scale; none without quantisation."""

    @always_inline
    def __init__(
        out self,
        first: Pointer[Scalar[Self.dtype], MutUntrackedOrigin],
        scales: OptionalReg[Pointer[Float32, MutUntrackedOrigin]],
    ):
        """Names the place.

        Args:
            first: The first token's first element.
            scales: The first token's first scale.
        """
        self.first = first
        self.scales = scales

    @always_inline
    def load[
        width: Int
    ](self, row: Int, column: Int) -> SIMD[DType.float32, width]:
        """Loads a part of a token, codes times their scale.

        Parameters:
            width: The elements, a power of two up to 8.

        Args:
            row: The token's place in the block.
            column: The first element, a multiple of `width`.

        Returns:
            The elements.
        """
        var elements = self.first.unsafe_load[
            width=width,
            alignment=vector_alignment[Self.dtype, width](),
            invariant=False,
        ](row * Self.Plane.token_stride + column)
        comptime if Self.is_quantized:
            var scale = column // Self.Scales.group_size
            comptime if Self.Scales.is_per_token:
                scale += row * Self.Scales.token_stride
            return dequantize(
                elements,
                self.scales.value().unsafe_load[invariant=False](scale),
            )
        return elements.cast[DType.float32]()


struct TokenPool[
    dtype: DType,
    page_size: Int,
    block_size: Int,
    num_kv_heads: Int,
    head_dim: Int,
    quantization: Quantization,
](DevicePassable, TrivialRegisterPassable):
    """The pool of keys and values, block by block.

    Parameters:
        dtype: The element type.
        page_size: The tokens per page.
        block_size: The tokens per block.
        num_kv_heads: The key-value heads held on this device.
        head_dim: The elements per head.
        quantization: Which elements share a scale.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime TileType = TokenTile[
        Self.dtype,
        Self.page_size,
        Self.num_kv_heads,
        Self.head_dim,
        Self.quantization,
    ]
    """A block's keys, or values."""

    comptime Plane = Self.TileType.Plane
    """Where an element lies."""

    comptime Scales = PageScales[
        Self.page_size, Self.num_kv_heads, Self.head_dim, Self.quantization
    ]
    """A view of the scales."""

    var first: Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    """The pool's first element."""

    var scales: OptionalReg[Pointer[Float32, MutUntrackedOrigin]]
    """The first scale; none without quantisation."""

    var num_layers: Int64
    """The layers in the pool."""

    def __init__(
        out self,
        first: Pointer[Scalar[Self.dtype], MutUntrackedOrigin],
        num_layers: Int,
        scales: OptionalReg[Pointer[Float32, MutUntrackedOrigin]] = None,
    ):
        """Wraps the pools.

        Args:
            first: The pool's first element.
            num_layers: The layers in the pool.
            scales: The first scale; none without quantisation.
        """
        self.first = first
        self.scales = scales
        self.num_layers = Int64(num_layers)

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
        return "TokenPool"

    @always_inline
    def tile[kv: Int](self, at: BlockPlace) -> Self.TileType:
        """Returns a block's keys, or its values.

        Parameters:
            kv: 0 for keys, 1 for values.

        Args:
            at: The block.

        Returns:
            A row for each token.
        """
        var num_layers = Int(self.num_layers)
        var slot = at.block * Self.block_size
        var first = self.first.unsafe_offset(
            Self.Plane.plane_offset(
                kv=kv, layer=at.layer, num_layers=num_layers
            )
            + Self.Plane.offset(
                page_offset=at.page
                * Self.Plane.page_stride(kv_dim=2, num_layers=num_layers),
                slot=slot,
                head=at.head,
                dim=0,
            )
        )
        comptime if Self.TileType.is_quantized:
            var view = Self.Scales(
                self.scales,
                kv=kv,
                layer=at.layer,
                kv_dim=2,
                num_layers=num_layers,
            )
            return Self.TileType(
                first, view.address(page=at.page, slot=slot, head=at.head)
            )
        return Self.TileType(first, None)
