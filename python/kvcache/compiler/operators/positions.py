"""Operators that go by the places of elements, not by their values."""

import math
from typing import ClassVar

from kvcache.compiler.operators.tile_op import Tile, TileOp


class MaskSlice(TileOp):
    """`alpha` inside a range of one axis, `beta` outside.

    The values of `x` are not read, only its shape.

    Args:
        start: The first place of the range.
        end: The place after its last.
        dim: The axis: 1 for rows of a tile, 2 for its columns.
        alpha: The value inside.
        beta: The value outside.

    Raises:
        AssertionError: If there is no such axis, or the range ends before it
            starts.
    """

    def __init__(  # noqa: PLR0917 - the seed's order
        self,
        start: int,
        end: int,
        dim: int,
        alpha: float = 1.0,
        beta: float = 0.0,
    ) -> None:
        """Checks and keeps the range and the values."""
        super().__init__()
        self.start = self.whole("start", start)
        self.end = self.whole("end", end)
        self.dim = self.whole("dim", dim)
        self.require(dim in {1, 2}, f"wanted dim to be 1 or 2, got {dim!r}")
        self.require(
            0 <= start <= end,
            f"wanted 0 <= start <= end, got start={start} and end={end}",
        )
        self.alpha = float(alpha)
        self.beta = float(beta)

    @property
    def attributes(self) -> dict[str, int | float]:
        """The range, the axis and both values, by their names."""
        return {
            "start": self.start,
            "end": self.end,
            "dim": self.dim,
            "alpha": self.alpha,
            "beta": self.beta,
        }

    def result_tile(self, *tiles: Tile) -> Tile:
        """Returns the same tile."""
        (tile,) = tiles
        extent = tile[self.dim - 1]
        self.require(
            self.end <= extent,
            f"wanted a range inside dim {self.dim} of extent {extent}, got "
            f"[{self.start}, {self.end})",
        )
        return tile


class Reshape(TileOp):
    """The same elements in row-major order, in another tile.

    Args:
        leading: -1, which stands for the rows; they stay.
        x2: Rows of the new tile.
        y2: Columns of the new tile.

    Raises:
        AssertionError: If `leading` is not -1, or an extent is not positive.
    """

    def __init__(self, leading: int, x2: int, y2: int) -> None:
        """Checks and keeps the new tile."""
        super().__init__()
        self.x2 = self.whole("x2", x2)
        self.y2 = self.whole("y2", y2)
        self.require(
            leading == -1, f"wanted -1 as leading extent, got {leading!r}"
        )
        self.require(
            x2 >= 1 and y2 >= 1,
            f"wanted positive extents, got ({x2}, {y2})",
        )

    @property
    def attributes(self) -> dict[str, int | float]:
        """The new tile, as `x2` and `y2`."""
        return {"x2": self.x2, "y2": self.y2}

    def result_tile(self, *tiles: Tile) -> Tile:
        """Returns the new tile."""
        (tile,) = tiles
        self.require(
            math.prod(tile) == self.x2 * self.y2,
            f"wanted {self.x2 * self.y2} elements for ({self.x2}, {self.y2}), "
            f"got {math.prod(tile)} of {tile}",
        )
        return self.x2, self.y2


class Transpose(TileOp):
    """Rows of a tile become its columns."""

    def result_tile(self, *tiles: Tile) -> Tile:
        """Returns the tile with its extents swapped."""
        ((rows, columns),) = tiles
        return columns, rows


class Fill(TileOp):
    """`alpha` everywhere; it reads nothing.

    Args:
        alpha: The value.
    """

    arity: ClassVar[int] = 0

    def __init__(self, alpha: float = 0.0) -> None:
        """Keeps the value."""
        super().__init__()
        self.alpha = float(alpha)

    @property
    def attributes(self) -> dict[str, int | float]:
        """The value, as `alpha`."""
        return {"alpha": self.alpha}
