"""Tensor-memory descriptors of one layer's keys, or of its values.

The hardware copies boxes of a matrix into shared memory. Here a row of the
matrix is a token's heads side by side, and the rows of one layer in two
consecutive pages are a page stride apart.

See:
    [The CUDA driver API](https://docs.nvidia.com/cuda/cuda-driver-api/), under
    `cuTensorMapEncodeTiled`, for the limits that are checked here.
"""

from layout import Coord, ComptimeInt, coord
from layout.tma_async import TMATensorTile
from max.gpu.host import DeviceBuffer, DeviceContext
from max.gpu.host.nvidia.tma import TensorMapSwizzle, create_tma_descriptor
from std.sys import size_of
from std.utils.index import IndexList

comptime MAX_BOX = 256
"""The most elements that a box may have along one axis."""

comptime MAX_ROWS = 1 << 31
"""The most rows of a matrix: coordinates are signed numbers of 32 bits."""

comptime ROW_ALIGNMENT = 16
"""What the bytes of a matrix row must be a multiple of."""

comptime HOPPER = 90
"""The first compute capability that has tensor memory copies."""


def span[dtype: DType, swizzle: TensorMapSwizzle]() -> Int:
    """Returns the columns that one box of a descriptor has.

    Parameters:
        dtype: The element type.
        swizzle: How shared memory is permuted; without, a box is 16 bytes wide.

    Returns:
        The columns, which are elements.
    """
    return swizzle.bytes() // size_of[dtype]()


comptime PageTMATile[
    dtype: DType,
    tile_m: Int,
    tile_n: Int,
    swizzle: TensorMapSwizzle,
    is_k_major: Bool,
] = TMATensorTile[
    dtype,
    coord[tile_m if is_k_major else tile_n, tile_n if is_k_major else tile_m],
    coord[tile_m, span[dtype, swizzle]()],
    is_k_major,
]
"""The descriptor of tiles of `tile_m` tokens by `tile_n` columns.

A copy writes the tile as `tile_n // span` boxes, one after the other, each of
`tile_m` rows: what `tile_layout_k_major[dtype, tile_m, tile_n, swizzle]` and
`tile_layout_mn_major[dtype, tile_n, tile_m, swizzle]` describe.

Parameters:
    dtype: The element type.
    tile_m: The tokens of a tile.
    tile_n: The columns of a tile.
    swizzle: How shared memory is permuted.
    is_k_major: Whether columns are the axis that a product sums over.
"""


def check_tma_pool(*, num_rows: Int, row_bytes: Int, address: Int) raises:
    """Refuses a pool that a descriptor cannot describe.

    Args:
        num_rows: The rows of the matrix, to the end of the last page.
        row_bytes: The bytes of a row.
        address: Where the first row starts.

    Raises:
        If there are more than 2**31 rows, or rows or their start are not
        aligned to 16 bytes.
    """
    if num_rows > MAX_ROWS:
        raise Error(t"create_tma_tile wants at most 2**31 rows, got {num_rows}")
    if row_bytes % ROW_ALIGNMENT or address % ROW_ALIGNMENT:
        raise Error(
            t"create_tma_tile wants rows that start at multiples of"
            t" {ROW_ALIGNMENT} bytes, got rows of {row_bytes} bytes from"
            t" address {address}"
        )


def check_tma_device(ctx: DeviceContext) raises:
    """Refuses a device without tensor memory copies.

    Args:
        ctx: The device.

    Raises:
        If it is not an NVIDIA GPU of compute capability 9.0 or later.
    """
    if ctx.api() != "cuda":
        raise Error(
            t"create_tma_tile wants an NVIDIA GPU, got a device of {ctx.api()}"
        )
    if ctx.compute_capability() < HOPPER:
        raise Error(
            t"create_tma_tile wants compute capability {HOPPER // 10}.0, got"
            t" {ctx.compute_capability() // 10}.{ctx.compute_capability() % 10}"
        )


def page_tma_tile[
    dtype: DType,
    //,
    tile_m: Int,
    tile_n: Int,
    swizzle: TensorMapSwizzle,
    *,
    is_k_major: Bool,
    page_size: Int,
    row_size: Int,
](
    ptr: Pointer[Scalar[dtype], MutUntrackedOrigin],
    num_rows: Int,
    ctx: DeviceContext,
) raises -> PageTMATile[dtype, tile_m, tile_n, swizzle, is_k_major]:
    """Describes tiles that stay inside a page.

    Parameters:
        dtype: The element type.
        tile_m: The tokens of a tile; they must divide `page_size`.
        tile_n: The columns of a tile, a multiple of `span`.
        swizzle: How shared memory is permuted.
        is_k_major: Whether columns are the axis that a product sums over.
        page_size: The tokens per page.
        row_size: The columns of the matrix.

    Args:
        ptr: The first row.
        num_rows: The rows, to the end of the last page.
        ctx: The GPU.

    Returns:
        The descriptor.

    Raises:
        If the device or the pool does not allow one.

    Constraints:
        A box has at most 256 rows and columns.
    """
    comptime columns = span[dtype, swizzle]()
    comptime assert (
        0 < tile_m <= page_size and page_size % tile_m == 0
    ), "tile_m must divide page_size"
    comptime assert tile_m <= MAX_BOX, "tile_m must be at most 256"
    comptime assert (
        0 < tile_n <= row_size and tile_n % columns == 0
    ), "tile_n must be a multiple of the swizzle span, within a row"
    check_tma_device(ctx)
    check_tma_pool(
        num_rows=num_rows,
        row_bytes=row_size * size_of[dtype](),
        address=Int(ptr),
    )
    return {
        create_tma_descriptor[dtype, 2, swizzle](
            DeviceBuffer(ctx, ptr, 1, owning=False),
            IndexList[2](num_rows, row_size),
            IndexList[2](row_size, 1),
            IndexList[2](tile_m, columns),
        )
    }
