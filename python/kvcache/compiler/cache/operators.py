"""The operators that make summaries of blocks."""

from typing import Any

from kvcache.compiler.cache.context import Context
from kvcache.compiler.cache.operator import CacheOp
from kvcache.compiler.operators import (
    binary,
    elementwise,
    positions,
    products,
    reductions,
)
from kvcache.compiler.operators.tile_op import Tile
from kvcache.compiler.vtensor import FORMAT, vTensor


class Mean(CacheOp, reductions.Mean):
    """See `operators.reductions.Mean`."""


class Max(CacheOp, reductions.Max):
    """See `operators.reductions.Max`."""


class Min(CacheOp, reductions.Min):
    """See `operators.reductions.Min`."""


class Sum(CacheOp, reductions.Sum):
    """See `operators.reductions.Sum`."""


class L2Norm(CacheOp, reductions.L2Norm):
    """See `operators.reductions.L2Norm`."""


class MeanInterleave(CacheOp, reductions.MeanInterleave):
    """See `operators.reductions.MeanInterleave`."""


class MaxInterleave(CacheOp, reductions.MaxInterleave):
    """See `operators.reductions.MaxInterleave`."""


class MinInterleave(CacheOp, reductions.MinInterleave):
    """See `operators.reductions.MinInterleave`."""


class SumInterleave(CacheOp, reductions.SumInterleave):
    """See `operators.reductions.SumInterleave`."""


class L2NormInterleave(CacheOp, reductions.L2NormInterleave):
    """See `operators.reductions.L2NormInterleave`."""


class GeMM(CacheOp, products.GeMM):
    """See `operators.products.GeMM`."""


class Relu(CacheOp, elementwise.Relu):
    """See `operators.elementwise.Relu`."""


class Silu(CacheOp, elementwise.Silu):
    """See `operators.elementwise.Silu`."""


class Sigmoid(CacheOp, elementwise.Sigmoid):
    """See `operators.elementwise.Sigmoid`."""


class Add_Mul(CacheOp, elementwise.Add_Mul):  # noqa: N801  (the seed's name)
    """See `operators.elementwise.Add_Mul`."""


class Abs(CacheOp, elementwise.Abs):
    """See `operators.elementwise.Abs`."""


class Log(CacheOp, elementwise.Log):
    """See `operators.elementwise.Log`."""


class Exp(CacheOp, elementwise.Exp):
    """See `operators.elementwise.Exp`."""


class Maximum(CacheOp, binary.Maximum):
    """See `operators.binary.Maximum`."""


class Minimum(CacheOp, binary.Minimum):
    """See `operators.binary.Minimum`."""


class Multiply(CacheOp, binary.Multiply):
    """See `operators.binary.Multiply`."""


class Add(CacheOp, binary.Add):
    """See `operators.binary.Add`."""


class WhereEqual(CacheOp, binary.WhereEqual):
    """See `operators.binary.WhereEqual`."""


class WhereNotEqual(CacheOp, binary.WhereNotEqual):
    """See `operators.binary.WhereNotEqual`."""


class WhereGreater(CacheOp, binary.WhereGreater):
    """See `operators.binary.WhereGreater`."""


class WhereGreaterEqual(CacheOp, binary.WhereGreaterEqual):
    """See `operators.binary.WhereGreaterEqual`."""


class WhereLess(CacheOp, binary.WhereLess):
    """See `operators.binary.WhereLess`."""


class WhereLessEqual(CacheOp, binary.WhereLessEqual):
    """See `operators.binary.WhereLessEqual`."""


class MaskSlice(CacheOp, positions.MaskSlice):
    """See `operators.positions.MaskSlice`."""


class Reshape(CacheOp, positions.Reshape):
    """See `operators.positions.Reshape`."""


class Fill(CacheOp, positions.Fill):
    """See `operators.positions.Fill`.

    Called as `op(output, loc=loc, ctx=ctx)`; only fields of the cache can be
    filled.
    """

    def profile(
        self,
        *operands: Any,
        ctx: Context,
        output: vTensor | None = None,
        loc: Any,
    ) -> vTensor:
        """Checks the output and records the call.

        Args:
            *operands: The output, unless it is named.
            ctx: The context that records it.
            output: The field that it makes.
            loc: The slots of new tokens, int64 `[num_tokens]`.

        Returns:
            The output.

        Raises:
            AssertionError: If the output is no field of the cache.
        """
        given = output if output is not None else next(iter(operands), None)
        if not isinstance(given, vTensor) or given.format != FORMAT.PAGED:
            raise AssertionError(
                f"{self.kind}: wanted output of format PAGED, got {given}"
            )
        self._tile = given.tile
        return super().profile(*operands, ctx=ctx, output=output, loc=loc)

    def result_tile(self, *tiles: Tile) -> Tile:  # noqa: ARG002  (reads no tile)
        """Returns the tile of the field that is filled."""
        return self._tile
