"""What operators are called in the Mojo runtime, and how they reduce."""

from dataclasses import dataclass

from kvcache.compiler.mojo_backend.code import number
from kvcache.compiler.program import Node

UNARY = {
    "Relu": "relu",
    "Silu": "silu",
    "Sigmoid": "sigmoid",
    "Add_Mul": "affine",
    "Abs": "absolute",
    "Log": "logarithm",
    "Exp": "exponential",
}
"""Functions of `tile_arithmetic`, of an element and two constants."""

COMPARISONS = {
    "WhereEqual": "eq",
    "WhereNotEqual": "ne",
    "WhereGreater": "gt",
    "WhereGreaterEqual": "ge",
    "WhereLess": "lt",
    "WhereLessEqual": "le",
}
"""Methods that compare elements."""

PRODUCTS = ("GeMM", "GeMV")

OVER_BLOCKS = {
    "Softmax": "SOFTMAX",
    "Normalize": "NORMALIZE",
    "Mean": "MEAN",
    "Max": "MAX",
    "Min": "MIN",
    "L2Norm": "L2_NORM",
    "Sum": "SUM",
}
"""Kinds of `over_blocks`."""


@dataclass(frozen=True, slots=True)
class Folding:
    """How elements become one."""

    first: str
    """What is there before the first element."""
    step: str
    """The result so far with an element more, of `{a}` and `{x}`."""
    across: str
    """A method of `Team`, and of vectors behind `reduce_`."""
    last: str = "{a}"
    """The result, of `{a}` and the count `{n}`."""


_SUM = Folding("0", "{a} + {x}", "sum")
FOLDINGS = {
    "Sum": _SUM,
    "Mean": Folding("0", "{a} + {x}", "sum", "{a} / {n}"),
    "L2Norm": Folding("0", "{x}.fma({x}, {a})", "sum", "sqrt({a})"),
    "Max": Folding("-inf[DType.float32]()", "max({a}, {x})", "max"),
    "Min": Folding("inf[DType.float32]()", "min({a}, {x})", "min"),
}
"""Reductions, and those of interleaved groups, by their names."""

REDUCED_ACROSS = {"sum": "reduce_add", "max": "reduce_max", "min": "reduce_min"}
"""Methods of vectors, by those of `Team`."""


def folding(node: Node) -> Folding | None:
    """Returns how a node folds, if it is a reduction or an interleaved one."""
    return FOLDINGS.get(node.op.kind.removesuffix("Interleave"))


def is_interleave(node: Node) -> bool:
    """Whether a node folds groups of adjacent elements."""
    return node.op.kind.endswith("Interleave")


def is_materialised(node: Node) -> bool:
    """Whether a node's result is computed once, and kept."""
    if node.op.kind in PRODUCTS:
        return True
    return folding(node) is not None and not is_interleave(node)


def elementwise(node: Node, values: list[str]) -> str | None:
    """Returns the expression of an elementwise node, or None."""
    kind, attributes = node.op.kind, node.op.attributes
    if kind in UNARY:
        constants = ", ".join(number(attributes[n]) for n in ("alpha", "beta"))
        return f"{UNARY[kind]}({values[0]}, {constants})"
    if kind in COMPARISONS:
        x, y = values
        if kind == "WhereNotEqual":
            # What is no number differs from everything.
            return f"masked(~{x}.eq({y}))"
        return f"masked({x}.{COMPARISONS[kind]}({y}))"
    if kind == "Add":
        return " + ".join(
            x if attributes[n] == 1 else f"{number(attributes[n])} * {x}"
            for x, n in zip(values, ("alpha", "beta"), strict=True)
        )
    functions = {"Multiply": "{} * {}"}
    functions |= {"Maximum": "max({}, {})", "Minimum": "min({}, {})"}
    return functions[kind].format(*values) if kind in functions else None
