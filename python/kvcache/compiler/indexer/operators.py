"""The operators that score blocks and choose some."""

from kvcache.compiler.indexer.operator import IndexerOp, IndexerReduction
from kvcache.compiler.operators import (
    binary,
    elementwise,
    positions,
    products,
    reductions,
)


class Mean(IndexerReduction, reductions.Mean):
    """See `operators.reductions.Mean`."""


class Max(IndexerReduction, reductions.Max):
    """See `operators.reductions.Max`."""


class Min(IndexerReduction, reductions.Min):
    """See `operators.reductions.Min`."""


class Sum(IndexerReduction, reductions.Sum):
    """See `operators.reductions.Sum`."""


class L2Norm(IndexerReduction, reductions.L2Norm):
    """See `operators.reductions.L2Norm`."""


class MeanInterleave(IndexerOp, reductions.MeanInterleave):
    """See `operators.reductions.MeanInterleave`."""


class MaxInterleave(IndexerOp, reductions.MaxInterleave):
    """See `operators.reductions.MaxInterleave`."""


class MinInterleave(IndexerOp, reductions.MinInterleave):
    """See `operators.reductions.MinInterleave`."""


class SumInterleave(IndexerOp, reductions.SumInterleave):
    """See `operators.reductions.SumInterleave`."""


class L2NormInterleave(IndexerOp, reductions.L2NormInterleave):
    """See `operators.reductions.L2NormInterleave`."""


class GeMM(IndexerOp, products.GeMM):
    """See `operators.products.GeMM`."""


class GeMV(IndexerOp, products.GeMV):
    """See `operators.products.GeMV`."""


class Kron(IndexerOp, products.Kron):
    """See `operators.products.Kron`."""


class Relu(IndexerOp, elementwise.Relu):
    """See `operators.elementwise.Relu`."""


class Silu(IndexerOp, elementwise.Silu):
    """See `operators.elementwise.Silu`."""


class Sigmoid(IndexerOp, elementwise.Sigmoid):
    """See `operators.elementwise.Sigmoid`."""


class Add_Mul(IndexerOp, elementwise.Add_Mul):  # noqa: N801  (the seed's name)
    """See `operators.elementwise.Add_Mul`."""


class Abs(IndexerOp, elementwise.Abs):
    """See `operators.elementwise.Abs`."""


class Log(IndexerOp, elementwise.Log):
    """See `operators.elementwise.Log`."""


class Exp(IndexerOp, elementwise.Exp):
    """See `operators.elementwise.Exp`."""


class Maximum(IndexerOp, binary.Maximum):
    """See `operators.binary.Maximum`."""


class Minimum(IndexerOp, binary.Minimum):
    """See `operators.binary.Minimum`."""


class Multiply(IndexerOp, binary.Multiply):
    """See `operators.binary.Multiply`."""


class Add(IndexerOp, binary.Add):
    """See `operators.binary.Add`."""


class WhereEqual(IndexerOp, binary.WhereEqual):
    """See `operators.binary.WhereEqual`."""


class WhereNotEqual(IndexerOp, binary.WhereNotEqual):
    """See `operators.binary.WhereNotEqual`."""


class WhereGreater(IndexerOp, binary.WhereGreater):
    """See `operators.binary.WhereGreater`."""


class WhereGreaterEqual(IndexerOp, binary.WhereGreaterEqual):
    """See `operators.binary.WhereGreaterEqual`."""


class WhereLess(IndexerOp, binary.WhereLess):
    """See `operators.binary.WhereLess`."""


class WhereLessEqual(IndexerOp, binary.WhereLessEqual):
    """See `operators.binary.WhereLessEqual`."""


class MaskSlice(IndexerOp, positions.MaskSlice):
    """See `operators.positions.MaskSlice`."""


class Reshape(IndexerOp, positions.Reshape):
    """See `operators.positions.Reshape`."""


class Transpose(IndexerOp, positions.Transpose):
    """See `operators.positions.Transpose`."""
