"""The tensors that describe a step: lengths and the lookup table."""

from layout import ComptimeInt, Coord, TileTensor
from layout.tile_layout import Layout as TileLayout

comptime RowLayout = TileLayout[
    shape_types=Coord[Int64].element_types,
    stride_types=Coord[ComptimeInt[1]].element_types,
]
"""The layout of a vector, its length known at run time."""

comptime TableLayout = TileLayout[
    shape_types=Coord[Int64, Int64].element_types,
    stride_types=Coord[Int64, ComptimeInt[1]].element_types,
]
"""The layout of a row-major matrix, its shape known at run time."""

comptime LengthsTensor = TileTensor[DType.uint32, RowLayout, ImmUntrackedOrigin]
"""Tokens cached per sequence before this step: uint32 `[batch_size]`."""

comptime LookupTable = TileTensor[DType.uint32, TableLayout, ImmUntrackedOrigin]
"""The pages of each sequence: uint32 `[batch_size, max_pages]`."""


def lengths_tensor(ptr: Pointer[UInt32, _], batch_size: Int) -> LengthsTensor:
    """Wraps per-sequence lengths.

    Args:
        ptr: The first length.
        batch_size: The number of sequences.

    Returns:
        The tensor, uint32 `[batch_size]`.
    """
    return LengthsTensor(
        ptr=ptr.unsafe_mut_cast[False]().unsafe_origin_cast[
            ImmUntrackedOrigin
        ](),
        layout=RowLayout(Coord(Int64(batch_size)), Coord(ComptimeInt[1]())),
    )


def lookup_table_tensor(
    ptr: Pointer[UInt32, _], batch_size: Int, max_pages: Int
) -> LookupTable:
    """Wraps a row-major lookup table.

    Args:
        ptr: The first entry.
        batch_size: The number of sequences.
        max_pages: The columns of the table.

    Returns:
        The tensor, uint32 `[batch_size, max_pages]`.
    """
    return LookupTable(
        ptr=ptr.unsafe_mut_cast[False]().unsafe_origin_cast[
            ImmUntrackedOrigin
        ](),
        layout=TableLayout(
            Coord(Int64(batch_size), Int64(max_pages)),
            Coord(Int64(max_pages), ComptimeInt[1]()),
        ),
    )
