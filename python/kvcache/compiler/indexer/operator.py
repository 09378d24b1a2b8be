"""How operators are called on the indexer side."""

from typing import Any, ClassVar

from kvcache.compiler.indexer.context import Context
from kvcache.compiler.operators.reductions import Reduction
from kvcache.compiler.operators.tile_op import TileOp
from kvcache.compiler.program import Side
from kvcache.compiler.vop import Schedule
from kvcache.compiler.vtensor import FORMAT, vTensor

_FORMATS = (FORMAT.BATCHED, FORMAT.RAGGED, FORMAT.PAGED)


class IndexerOp(TileOp):
    """An operator on the blocks of one request and head.

    Called as `op(x, ctx=ctx)`, with `x, y` where it has two operands. Rows of
    the result are blocks, unless every operand has one row for the request.
    """

    formats: ClassVar[tuple[FORMAT, ...]] = _FORMATS
    """What the rows of operands may stand for."""

    def profile(self, *operands: Any, ctx: Context) -> vTensor:
        """Checks the operands and records the call.

        Args:
            *operands: The tensors that it reads.
            ctx: The context that records it.

        Returns:
            The new tensor.

        Raises:
            TypeError: If the count of operands is another.
            AssertionError: If they do not fit.
            ValueError: If the elements of an operand are no floats.
            RuntimeError: If the context is not created.
        """
        self.require_side(ctx, Side.INDEXER)
        read = self.read_operands(operands, ctx, self.formats)
        output = ctx.add_tensor(
            self._tile_checked(read),
            ctx.vortex_dtype,
            self.result_format(read),
            device=read[0].device,
        )
        ctx.record(self, read, output)
        return output

    def result_format(self, read: list[vTensor]) -> FORMAT:
        """Returns what the rows of the result stand for."""
        batched = all(x.format is FORMAT.BATCHED for x in read)
        return FORMAT.BATCHED if batched else FORMAT.RAGGED

    def _tile_checked(self, read: list[vTensor]) -> tuple[int, int]:
        return self.result_tile(*(each.tile for each in read))


class IndexerReduction(IndexerOp, Reduction):
    """A reduction that can also reduce the blocks of a request, with dim 0.

    The result then has one row for the request, and the operator is a kernel
    of its own.
    """

    axes: ClassVar[tuple[int, ...]] = (0, 1, 2)

    def __init__(self, dim: int = 1) -> None:
        """Checks and keeps the axis."""
        super().__init__(dim)
        if dim == 0:
            self.schedule = Schedule.S

    def result_format(self, read: list[vTensor]) -> FORMAT:
        """Returns what the rows of the result stand for.

        Raises:
            AssertionError: If there are no blocks to reduce.
        """
        if self.dim != 0:
            return super().result_format(read)
        self.require(
            read[0].format is not FORMAT.BATCHED,
            f"wanted x with a row for each block for dim=0, got {read[0]}",
        )
        return FORMAT.BATCHED
