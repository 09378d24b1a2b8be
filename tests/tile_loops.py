"""What each operator of the cache compiler means, one element at a time."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

Tile = np.ndarray
COMPARED: dict[str, Callable[[float, float], bool]] = {
    "WhereEqual": lambda x, y: x == y,
    "WhereNotEqual": lambda x, y: x != y,
    "WhereGreater": lambda x, y: x > y,
    "WhereGreaterEqual": lambda x, y: x >= y,
    "WhereLess": lambda x, y: x < y,
    "WhereLessEqual": lambda x, y: x <= y,
}
UNARY: dict[str, Callable[..., float]] = {
    "Relu": lambda x, alpha, beta: x if x >= alpha else beta,
    "Silu": lambda x, alpha, beta: x / (1 + math.exp(beta * x + alpha)),
    "Sigmoid": lambda x, alpha, beta: 1 / (1 + math.exp(beta * x + alpha)),
    "Add_Mul": lambda x, alpha, beta: beta * x + alpha,
    "Abs": lambda x, alpha, beta: abs(beta * x + alpha),
    "Log": lambda x, alpha, beta: math.log(beta * x + alpha),
    "Exp": lambda x, alpha, beta: math.exp(beta * x + alpha),
}
PAIRED: dict[str, Callable[..., float]] = {
    "Maximum": max,
    "Minimum": min,
    "Multiply": lambda x, y: x * y,
    "Add": lambda x, y, alpha=1.0, beta=1.0: alpha * x + beta * y,
}


def gathered(kind: str, values: list[float]) -> float:
    """One number of many."""
    if kind == "Max":
        return max(values)
    if kind == "Min":
        return min(values)
    if kind == "L2Norm":
        return math.sqrt(sum(each * each for each in values))
    return sum(values) / (len(values) if kind == "Mean" else 1)


def at(tile: Tile, i: int, j: int) -> float:
    """An element of a tile whose extents of 1 are repeated."""
    rows, columns = tile.shape
    return float(tile[i if rows > 1 else 0, j if columns > 1 else 0])


def filled(
    shape: tuple[int, int], element: Callable[[int, int], float]
) -> Tile:
    """A tile made element by element."""
    tile = np.empty(shape)
    for i, j in product(range(shape[0]), range(shape[1])):
        tile[i, j] = element(i, j)
    return tile


def looped(kind: str, given: dict[str, Any], *tiles: Tile) -> Tile:
    """The result of an operator made with `given`, of one tile each."""
    if kind in UNARY:
        code, (x,) = UNARY[kind], tiles
        return filled(x.shape, lambda i, j: code(float(x[i, j]), **given))
    if kind in PAIRED or kind in COMPARED:
        return paired(kind, given, *tiles)
    special = {
        "GeMM": product_of,
        "GeMV": product_of,
        "Kron": kron,
        "MaskSlice": sliced,
        "Reshape": reshaped,
        "Transpose": transposed,
    }
    if kind in special:
        return special[kind](given, *tiles)
    return grouped(kind, given, *tiles)


def product_of(given: dict[str, Any], x: Tile, y: Tile) -> Tile:
    """`y` times `x` transposed."""
    assert not given
    depth = range(x.shape[1])
    return filled(
        (len(y), len(x)),
        lambda i, j: sum(float(x[j, k]) * float(y[i, k]) for k in depth),
    )


def sliced(given: dict[str, Any], x: Tile) -> Tile:
    """One number in a range, another outside."""
    inside = range(given["start"], given["end"])
    yes, no = given.get("alpha", 1.0), given.get("beta", 0.0)
    return filled(
        x.shape, lambda i, j: yes if (i, j)[given["dim"] - 1] in inside else no
    )


def reshaped(given: dict[str, Any], x: Tile) -> Tile:
    """The same elements, row by row."""
    flat = [float(each) for row in x for each in row]
    width = given["y2"]
    return filled((given["x2"], width), lambda i, j: flat[i * width + j])


def transposed(given: dict[str, Any], x: Tile) -> Tile:
    """Rows as columns."""
    assert not given
    return filled((x.shape[1], len(x)), lambda i, j: x[j, i])


def paired(kind: str, given: dict[str, Any], x: Tile, y: Tile) -> Tile:
    """Operators on two elements."""
    shape = (max(len(x), len(y)), max(x.shape[1], y.shape[1]))
    if kind in PAIRED:
        code = PAIRED[kind]
        return filled(
            shape, lambda i, j: code(at(x, i, j), at(y, i, j), **given)
        )
    test = COMPARED[kind]
    return filled(
        shape,
        lambda i, j: 0.0 if test(at(x, i, j), at(y, i, j)) else -math.inf,
    )


def kron(given: dict[str, Any], x: Tile, y: Tile) -> Tile:
    """Products of all with all along some axes."""
    dim = given.get("dim", (1, 2))
    axes = {dim} if isinstance(dim, int) else set(dim)
    (a, b), (c, d) = x.shape, y.shape
    shape = (
        a * c if 1 in axes else max(a, c),
        b * d if 2 in axes else max(b, d),
    )

    def element(i: int, j: int) -> float:
        one, other = [i, j], [i, j]
        if 1 in axes:
            one[0], other[0] = divmod(i, c)
        if 2 in axes:
            one[1], other[1] = divmod(j, d)
        return at(x, one[0], one[1]) * at(y, other[0], other[1])

    return filled(shape, element)


def grouped(kind: str, given: dict[str, Any], x: Tile) -> Tile:
    """Reductions of an axis, or of groups along it."""
    dim = given.get("dim", 1)
    plain = kind.removesuffix("Interleave")
    size = x.shape[dim - 1] if plain == kind else given.get("k", 2)
    if dim == 2:
        return grouped(kind, given | {"dim": 1}, x.T).T
    return filled(
        (len(x) // size, x.shape[1]),
        lambda i, j: gathered(
            plain, [float(x[i * size + e, j]) for e in range(size)]
        ),
    )


def over_blocks(kind: str, given: dict[str, Any], blocks: Tile) -> Tile:
    """Operators over the blocks `[S, r, c]` of a request."""
    if kind in {"Softmax", "Normalize"}:
        result = np.empty(blocks.shape)
        for i, j in product(*map(range, blocks.shape[1:])):
            values = [float(each) for each in blocks[:, i, j]]
            if kind == "Softmax":
                scale = given.get("scale", 1.0)
                values = [math.exp(scale * each) for each in values]
            result[:, i, j] = [each / sum(values) for each in values]
        return result
    return filled(
        blocks.shape[1:],
        lambda i, j: gathered(kind, [float(e) for e in blocks[:, i, j]]),
    )[None]
