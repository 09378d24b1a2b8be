"""Operators on two tiles, of which extents of 1 are repeated."""

from typing import ClassVar

from kvcache.compiler.operators.products import broadcast
from kvcache.compiler.operators.tile_op import Tile, TileOp


class Binary(TileOp):
    """Computes each element from those of two operands at its place."""

    arity: ClassVar[int] = 2

    def result_tile(self, *tiles: Tile) -> Tile:
        """Returns the extents that both broadcast to."""
        x, y = tiles
        rows, columns = (
            broadcast(self, axis, a, b)
            for axis, a, b in zip((1, 2), x, y, strict=True)
        )
        return rows, columns


class Maximum(Binary):
    """The larger element."""


class Minimum(Binary):
    """The smaller element."""


class Multiply(Binary):
    """The product."""


class Add(Binary):
    """`alpha * x + beta * y`.

    Args:
        alpha: The factor of `x`.
        beta: The factor of `y`; -1 subtracts it.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 1.0) -> None:
        """Keeps the factors."""
        super().__init__()
        self.alpha = float(alpha)
        self.beta = float(beta)

    @property
    def attributes(self) -> dict[str, int | float]:
        """The factors, as `alpha` and `beta`."""
        return {"alpha": self.alpha, "beta": self.beta}


class Where(Binary):
    """0 where a comparison holds, else minus infinity: a mask to be added."""


class WhereEqual(Where):
    """0 where `x == y`, else minus infinity."""


class WhereNotEqual(Where):
    """0 where `x != y`, else minus infinity."""


class WhereGreater(Where):
    """0 where `x > y`, else minus infinity."""


class WhereGreaterEqual(Where):
    """0 where `x >= y`, else minus infinity."""


class WhereLess(Where):
    """0 where `x < y`, else minus infinity."""


class WhereLessEqual(Where):
    """0 where `x <= y`, else minus infinity."""
