"""Operators that look at all scored blocks of a request."""

from typing import Any, ClassVar

from kvcache.compiler.indexer.context import Context
from kvcache.compiler.indexer.operator import IndexerOp
from kvcache.compiler.vop import Schedule
from kvcache.compiler.vtensor import FORMAT, vTensor


class OverBlocks(IndexerOp):
    """Computes in place, over the blocks of a request, for each `(r, c)`.

    Later readers of `x` read the result, which is returned as well.

    Args:
        dim: 0, the axis of blocks.

    Raises:
        AssertionError: If it is another axis.
    """

    schedule = Schedule.S
    formats: ClassVar[tuple[FORMAT, ...]] = (FORMAT.RAGGED,)

    def __init__(self, dim: int = 0) -> None:
        """Checks the axis."""
        super().__init__()
        self.require(dim == 0, f"wanted dim to be 0, got {dim!r}")
        self.dim = 0

    def profile(self, *operands: Any, ctx: Context) -> vTensor:
        """Checks the operand, records the call, and redirects readers.

        Args:
            *operands: The tensor that is computed in place, RAGGED.
            ctx: The context that records it.

        Returns:
            The result.
        """
        result = super().profile(*operands, ctx=ctx)
        ctx.replace(ctx.current(operands[0]), result)
        return result


class Softmax(OverBlocks):
    """`exp(scale * x)`, divided by its sum over blocks.

    Args:
        dim: 0, the axis of blocks.
        scale: The factor of `x`.

    Raises:
        AssertionError: If it is another axis.
    """

    def __init__(self, dim: int = 0, scale: float = 1.0) -> None:
        """Checks the axis and keeps the factor."""
        super().__init__(dim)
        self.scale = float(scale)

    @property
    def attributes(self) -> dict[str, int | float]:
        """The factor, as `scale`."""
        return {"scale": self.scale}


class Normalize(OverBlocks):
    """`x`, divided by its sum over blocks."""
