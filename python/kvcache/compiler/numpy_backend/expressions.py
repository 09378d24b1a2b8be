"""The NumPy code of each kind of operator.

Operands are float32 arrays `[rows, r, c]`, or `[1, r, c]` where all rows are
the same. Code that goes by whole rows is right for one request at a time only.
"""

import math
from collections.abc import Callable, Sequence

from kvcache.compiler.program import Node
from kvcache.compiler.vtensor import vTensor

Tile = tuple[int, int]

_REDUCED = {
    "Mean": "{x}.mean(axis={axis}{keep})",
    "Max": "{x}.max(axis={axis}{keep})",
    "Min": "{x}.min(axis={axis}{keep})",
    "Sum": "{x}.sum(axis={axis}{keep})",
    "L2Norm": "np.sqrt(np.square({x}).sum(axis={axis}{keep}))",
}
_ELEMENTWISE = {
    "Relu": "np.where({x} >= {alpha}, {x}, {beta})",
    "Silu": "{x} / (1.0 + np.exp({beta} * {x} + {alpha}))",
    "Sigmoid": "1.0 / (1.0 + np.exp({beta} * {x} + {alpha}))",
    "Add_Mul": "{beta} * {x} + {alpha}",
    "Abs": "np.abs({beta} * {x} + {alpha})",
    "Log": "np.log({beta} * {x} + {alpha})",
    "Exp": "np.exp({beta} * {x} + {alpha})",
}
_BINARY = {
    "Maximum": "np.maximum({x}, {y})",
    "Minimum": "np.minimum({x}, {y})",
    "Multiply": "{x} * {y}",
    "Add": "{alpha} * {x} + {beta} * {y}",
}
_COMPARED = {
    "WhereEqual": "==",
    "WhereNotEqual": "!=",
    "WhereGreater": ">",
    "WhereGreaterEqual": ">=",
    "WhereLess": "<",
    "WhereLessEqual": "<=",
}


def statements(
    node: Node, operands: Sequence[str], tensors: Sequence[vTensor]
) -> list[str]:
    """Returns the lines that compute one call.

    Args:
        node: The call.
        operands: The names of what it reads, then that of its result.
        tensors: All tensors, by their ids.

    Raises:
        NotImplementedError: If there is no code for the operator.
    """
    kind = node.op.kind
    *read, made = operands
    named = dict(zip(("x", "y"), read, strict=False))
    values = named | _constants(node)
    for simple in (_ELEMENTWISE, _BINARY):
        if kind in simple:
            return [f"{made} = {simple[kind].format_map(values)}"]
    if kind in _COMPARED:
        test = f"{named['x']} {_COMPARED[kind]} {named['y']}"
        return [f"{made} = np.where({test}, ZERO, MINUS_INFINITY)"]
    for family, code in _FAMILIES.items():
        if kind in family:
            tiles = [tensors[each].tile for each in (*node.inputs, node.output)]
            return code(node, operands, tiles)
    raise NotImplementedError(f"{kind}: the NumPy backend has no code for it")


def kinds() -> list[str]:
    """Returns the operators that there is code for, but for `topK`."""
    simple = (*_ELEMENTWISE, *_BINARY, *_COMPARED)
    return [*simple, *(kind for family in _FAMILIES for kind in family)]


def constant(value: float) -> str:
    """Returns a constant as NumPy code."""
    if math.isfinite(value):
        return repr(float(value))
    return f'np.float32("{value}")'


def _constants(node: Node) -> dict[str, str]:
    return {name: constant(value) for name, value in node.op.attributes.items()}


def _reduction(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    del tiles
    x, made = operands
    axis = int(node.op.attributes["dim"])
    code = _REDUCED[node.op.kind]
    return [f"{made} = {code.format(x=x, axis=axis, keep=', keepdims=True')}"]


def _interleave(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    x, made = operands
    (rows, columns), _ = tiles
    dim, k = (int(node.op.attributes[name]) for name in ("dim", "k"))
    split = f"{rows // k}, {k}, {columns}"
    if dim == 2:
        split = f"{rows}, {columns // k}, {k}"
    code = _REDUCED[node.op.kind.removesuffix("Interleave")]
    groups = f"{x}.reshape(len({x}), {split})"
    return [f"{made} = {code.format(x=groups, axis=dim + 1, keep='')}"]


def _product(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    del node, tiles
    x, y, made = operands
    return [f"{made} = np.matmul({y}, {x}.swapaxes(1, 2))"]


def _mask_slice(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    *_, made = operands
    rows, columns = tiles[-1]
    values = node.op.attributes
    lines = [
        f"{made} = np.full((1, {rows}, {columns}), {_f32(values, 'beta')})"
    ]
    along = f"{int(values['start'])}:{int(values['end'])}"
    place = f":, {along}" if values["dim"] == 1 else f":, :, {along}"
    return [*lines, f"{made}[{place}] = {_f32(values, 'alpha')}"]


def _fill(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    (made,) = operands
    ((rows, columns),) = tiles
    value = _f32(node.op.attributes, "alpha")
    return [f"{made} = np.full((1, {rows}, {columns}), {value})"]


def _f32(values: dict[str, int | float], name: str) -> str:
    value = float(values[name])
    text = repr(value) if math.isfinite(value) else f'"{value}"'
    return f"np.float32({text})"


def _reshape(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    del node
    x, made = operands
    rows, columns = tiles[-1]
    return [f"{made} = {x}.reshape(len({x}), {rows}, {columns})"]


def _transpose(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    del node, tiles
    x, made = operands
    return [f"{made} = {x}.swapaxes(1, 2)"]


def _kron(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    x, y, made = operands
    rows, columns = tiles[-1]
    along1, along2 = (node.op.attributes[name] for name in ("kron1", "kron2"))
    x_axes = [":", ":", *(["None"] * bool(along1))]
    y_axes = [":", *(["None"] * bool(along1)), ":"]
    x_axes += [":", *(["None"] * bool(along2))]
    y_axes += [*(["None"] * bool(along2)), ":"]
    return [
        f"{made} = {x}[{', '.join(x_axes)}] * {y}[{', '.join(y_axes)}]",
        f"{made} = {made}.reshape(len({made}), {rows}, {columns})",
    ]


def _softmax(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    del tiles
    x, made = operands
    scale = constant(node.op.attributes["scale"])
    return [
        f"{made} = {scale} * {x}",
        f"{made} = np.exp({made} - {made}.max(axis=0, keepdims=True))",
        f"{made} = {made} / {made}.sum(axis=0, keepdims=True)",
    ]


def _normalize(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    del node, tiles
    x, made = operands
    return [f"{made} = {x} / {x}.sum(axis=0, keepdims=True)"]


_Code = Callable[[Node, Sequence[str], Sequence[Tile]], list[str]]

_FAMILIES: dict[tuple[str, ...], _Code] = {
    tuple(_REDUCED): _reduction,
    tuple(f"{kind}Interleave" for kind in _REDUCED): _interleave,
    ("GeMM", "GeMV"): _product,
    ("MaskSlice",): _mask_slice,
    ("Fill",): _fill,
    ("Reshape",): _reshape,
    ("Transpose",): _transpose,
    ("Kron",): _kron,
    ("Softmax",): _softmax,
    ("Normalize",): _normalize,
}
