"""Operators on each element alone, with two constants."""

from kvcache.compiler.operators.tile_op import TileOp


class Elementwise(TileOp):
    """Computes each element from the one at its place.

    Args:
        alpha: A constant; what it does depends on the operator.
        beta: Another.
    """

    def __init__(self, alpha: float = 0.0, beta: float = 1.0) -> None:
        """Keeps the constants."""
        super().__init__()
        self.alpha = float(alpha)
        self.beta = float(beta)

    @property
    def attributes(self) -> dict[str, int | float]:
        """The constants, as `alpha` and `beta`."""
        return {"alpha": self.alpha, "beta": self.beta}


class _ZeroBeta(Elementwise):
    """An elementwise operator whose `beta` is 0 unless it is given."""

    def __init__(self, alpha: float = 0.0, beta: float = 0.0) -> None:
        super().__init__(alpha, beta)


class Relu(_ZeroBeta):
    """`x` where it is at least `alpha`, else `beta`.

    Args:
        alpha: The threshold.
        beta: What takes the place of smaller elements.
    """


class Silu(_ZeroBeta):
    """`x / (1 + exp(beta * x + alpha))`.

    The defaults give `x / 2`. The SiLU of textbooks is `Silu(beta=-1)`.

    Args:
        alpha: What is added inside the exponential.
        beta: The factor of `x` inside it.
    """


class Sigmoid(_ZeroBeta):
    """`1 / (1 + exp(beta * x + alpha))`.

    The defaults give 0.5 everywhere. The logistic function of textbooks is
    `Sigmoid(beta=-1)`.

    Args:
        alpha: What is added inside the exponential.
        beta: The factor of `x` inside it.
    """


class Add_Mul(Elementwise):  # noqa: N801  (the seed's name)
    """`beta * x + alpha`."""


class Abs(Elementwise):
    """`abs(beta * x + alpha)`."""


class Log(Elementwise):
    """The natural logarithm of `beta * x + alpha`."""


class Exp(Elementwise):
    """`exp(beta * x + alpha)`."""
