"""Pieces of Triton code about tiles, whose extents are powers of two there.

A tile `[r, c]` is padded to the next powers of two. What is in the padding is
never defined: code that looks across elements masks it.
"""

import math
from collections.abc import Sequence

Tile = tuple[int, int]


def padded(extent: int) -> int:
    """Returns the next power of two."""
    return 1 << (extent - 1).bit_length()


def padded_tile(tile: Tile) -> Tile:
    """Returns a tile with both extents padded."""
    return padded(tile[0]), padded(tile[1])


def places(extent: int, axis: int, rank: int = 2) -> str:
    """Returns places along one axis, as a tile that broadcasts."""
    axes = ", ".join(":" if i == axis else "None" for i in range(rank))
    return f"tl.arange(0, {padded(extent)})[{axes}]"


def inside(extents: Sequence[int]) -> str:
    """Returns a mask of what is no padding, or nothing if there is none."""
    rank = len(extents)
    tests = [
        f"({places(extent, axis, rank)} < {extent})"
        for axis, extent in enumerate(extents)
    ]
    return " & ".join(tests)


def masked(x: str, tile: Tile, axis: int, instead: str) -> str:
    """Returns a tile whose padding along one axis is replaced."""
    extent = tile[axis]
    if extent == padded(extent):
        return x
    return f"tl.where({places(extent, axis)} < {extent}, {x}, {instead})"


def picked(x: str, tile: Tile, index: str, extents: Sequence[int]) -> str:
    """Returns elements of a tile, by their places in the padded tile.

    Args:
        x: The tile.
        tile: Its extents.
        index: The wanted places, of padded `extents`.
        extents: Those of the result.
    """
    given = math.prod(padded_tile(tile))
    wanted = [padded(extent) for extent in extents]
    number = math.prod(wanted)
    safe = f"tl.where({inside(extents)}, {index}, 0)"
    flat = f"tl.reshape({x}, [{given}])"
    return (
        f"tl.reshape(tl.gather({flat}, tl.reshape({safe}, [{number}]), 0), "
        f"{wanted})"
    )


def constant(value: float) -> str:
    """Returns a number as Triton code."""
    value = float(value)
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def full(tile: Tile, value: float) -> str:
    """Returns a tile of one number."""
    rows, columns = padded_tile(tile)
    return f"tl.full([{rows}, {columns}], {constant(value)}, tl.float32)"
