"""Products of tiles."""

from collections.abc import Iterable
from typing import ClassVar

from kvcache.compiler.operators.tile_op import Tile, TileOp


class GeMM(TileOp):
    """`y` times `x` transposed: `out[i, j] = sum_k x[j, k] * y[i, k]`.

    The second operand gives the rows of the result. `x` is `[Nx, K]`, `y` is
    `[Ny, K]`, the result `[Ny, Nx]`.
    """

    arity: ClassVar[int] = 2

    def result_tile(self, *tiles: Tile) -> Tile:
        """Returns `(Ny, Nx)`."""
        (x_rows, x_columns), (y_rows, y_columns) = tiles
        self.require(
            x_columns == y_columns,
            "wanted x and y with the same K = shape[2], got "
            f"{x_columns} and {y_columns}",
        )
        return y_rows, x_rows


class GeMV(GeMM):
    """`GeMM` for an `x` of one row, such as the mean of all queries."""

    def result_tile(self, *tiles: Tile) -> Tile:
        """Returns `(Ny, 1)`."""
        x, _ = tiles
        self.require(x[0] == 1, f"wanted x of one row, got {x}")
        return super().result_tile(*tiles)


class Kron(TileOp):
    """The Kronecker product along some of the two axes of tiles.

    Along such an axis, `out[i * y + j] = x[i] * y[j]`; the other one
    broadcasts.

    Args:
        dim: The axes: 1, 2 or both.

    Raises:
        AssertionError: If it names no axis, or another one.
    """

    arity: ClassVar[int] = 2

    def __init__(self, dim: int | Iterable[int] = (1, 2)) -> None:
        """Checks and keeps the axes."""
        super().__init__()
        given = dim if isinstance(dim, Iterable) else (dim,)
        axes = {self.whole("dim", axis) for axis in given}
        self.require(
            bool(axes) and axes <= {1, 2},
            f"wanted dim to be 1, 2 or both, got {dim!r}",
        )
        self.dim = tuple(sorted(axes))

    @property
    def attributes(self) -> dict[str, int | float]:
        """Whether each axis is multiplied out, as `kron1` and `kron2`."""
        return {"kron1": int(1 in self.dim), "kron2": int(2 in self.dim)}

    def result_tile(self, *tiles: Tile) -> Tile:
        """Returns products of the extents, or what they broadcast to."""
        x, y = tiles
        rows, columns = (
            a * b if axis in self.dim else broadcast(self, axis, a, b)
            for axis, a, b in zip((1, 2), x, y, strict=True)
        )
        return rows, columns


def broadcast(op: TileOp, axis: int, a: int, b: int) -> int:
    """Returns the extent that two extents of one axis broadcast to.

    Raises:
        AssertionError: If they differ and none is 1, by the operator's name.
    """
    op.require(
        a == b or 1 in {a, b},
        f"wanted extents along dim {axis} that are equal or 1, got {a} and {b}",
    )
    return b if a == 1 else a
