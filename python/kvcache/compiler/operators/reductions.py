"""Operators that make one number of many, along one axis."""

from typing import ClassVar

from kvcache.compiler.operators.tile_op import Tile, TileOp


class Reduction(TileOp):
    """Reduces one axis, which stays with extent 1.

    Args:
        dim: The axis: 1 for rows of a tile, 2 for its columns; in an indexer
            also 0, for the blocks of a request.

    Raises:
        AssertionError: If there is no such axis to reduce.
    """

    axes: ClassVar[tuple[int, ...]] = (1, 2)
    """The axes that can be reduced."""

    def __init__(self, dim: int = 1) -> None:
        """Checks and keeps the axis."""
        super().__init__()
        self.dim = self.whole("dim", dim)
        self.require(
            dim in self.axes,
            f"wanted dim to be one of {self.axes}, got {dim!r}",
        )

    @property
    def attributes(self) -> dict[str, int | float]:
        """The axis, as `dim`."""
        return {"dim": self.dim}

    def result_tile(self, *tiles: Tile) -> Tile:
        """Returns the tile with extent 1 along the axis."""
        ((rows, columns),) = tiles
        return (
            1 if self.dim == 1 else rows,
            1 if self.dim == 2 else columns,
        )


class Mean(Reduction):
    """The mean. Over `k` with `dim=1` it is a block's centroid."""


class Max(Reduction):
    """The largest element."""


class Min(Reduction):
    """The smallest element."""


class Sum(Reduction):
    """The sum."""


class L2Norm(Reduction):
    """The square root of the sum of squares; the count does not divide it."""


class Interleave(TileOp):
    """Reduces each group of adjacent elements to one.

    Args:
        dim: The axis: 1 for rows of a tile, 2 for its columns.
        k: Elements of a group; it divides the extent of the axis.

    Raises:
        AssertionError: If there is no such axis, or `k` is no positive int.
    """

    def __init__(self, dim: int = 1, k: int = 2) -> None:
        """Checks and keeps the axis and the group's size."""
        super().__init__()
        self.dim = self.whole("dim", dim)
        self.k = self.whole("k", k)
        self.require(dim in {1, 2}, f"wanted dim to be 1 or 2, got {dim!r}")
        self.require(k >= 1, f"wanted k to be positive, got {k!r}")

    @property
    def attributes(self) -> dict[str, int | float]:
        """The axis and the group's size, as `dim` and `k`."""
        return {"dim": self.dim, "k": self.k}

    def result_tile(self, *tiles: Tile) -> Tile:
        """Returns the tile with as many elements as there are groups."""
        ((rows, columns),) = tiles
        extent = (rows, columns)[self.dim - 1]
        self.require(
            extent % self.k == 0,
            f"wanted an extent along dim {self.dim} that k={self.k} divides, "
            f"got {extent} of ({rows}, {columns})",
        )
        if self.dim == 1:
            return rows // self.k, columns
        return rows, columns // self.k


class MeanInterleave(Interleave):
    """The mean of each group."""


class MaxInterleave(Interleave):
    """The largest element of each group."""


class MinInterleave(Interleave):
    """The smallest element of each group."""


class SumInterleave(Interleave):
    """The sum of each group."""


class L2NormInterleave(Interleave):
    """The square root of the sum of squares of each group."""
