"""The Triton code of each kind of operator that works on one tile."""

from collections.abc import Callable, Sequence

from kvcache.compiler.program import Node
from kvcache.compiler.triton_backend.tile_code import (
    Tile,
    constant,
    full,
    masked,
    padded,
    padded_tile,
    picked,
    places,
)
from kvcache.compiler.vtensor import vTensor

SMALL_PRODUCT = 16384
"""Elements of a product that is computed at once, not column by column."""

ELEMENTWISE = {
    "Relu": "tl.where({x} >= {alpha}, {x}, {beta})",
    "Silu": "{x} / (1.0 + tl.exp({beta} * {x} + {alpha}))",
    "Sigmoid": "1.0 / (1.0 + tl.exp({beta} * {x} + {alpha}))",
    "Add_Mul": "{beta} * {x} + {alpha}",
    "Abs": "tl.abs({beta} * {x} + {alpha})",
    "Log": "tl.log({beta} * {x} + {alpha})",
    "Exp": "tl.exp({beta} * {x} + {alpha})",
    "Maximum": "tl.maximum({x}, {y})",
    "Minimum": "tl.minimum({x}, {y})",
    "Multiply": "{x} * {y}",
    "Add": "{alpha} * {x} + {beta} * {y}",
    "WhereEqual": "tl.where({x} == {y}, 0.0, float('-inf'))",
    "WhereNotEqual": "tl.where({x} != {y}, 0.0, float('-inf'))",
    "WhereGreater": "tl.where({x} > {y}, 0.0, float('-inf'))",
    "WhereGreaterEqual": "tl.where({x} >= {y}, 0.0, float('-inf'))",
    "WhereLess": "tl.where({x} < {y}, 0.0, float('-inf'))",
    "WhereLessEqual": "tl.where({x} <= {y}, 0.0, float('-inf'))",
}
IDENTITIES = {
    "Mean": "0.0",
    "Sum": "0.0",
    "L2Norm": "0.0",
    "Max": "float('-inf')",
    "Min": "float('inf')",
}
"""What changes nothing, for each reduction."""


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
    if kind in ELEMENTWISE:
        *read, made = operands
        values = dict(zip(("x", "y"), read, strict=False)) | {
            name: constant(value) for name, value in node.op.attributes.items()
        }
        return [f"{made} = {ELEMENTWISE[kind].format_map(values)}"]
    for family, code in _FAMILIES.items():
        if kind in family:
            tiles = [tensors[each].tile for each in (*node.inputs, node.output)]
            return code(node, operands, tiles)
    raise NotImplementedError(f"{kind}: the Triton backend has no code for it")


def kinds() -> list[str]:
    """Returns the operators on one tile that there is code for."""
    return [*ELEMENTWISE, *(kind for family in _FAMILIES for kind in family)]


def reduced(kind: str, x: str, axis: int, count: int) -> str:
    """Returns the reduction of one axis, which goes."""
    if kind in {"Max", "Min"}:
        return f"tl.{kind.lower()}({x}, axis={axis})"
    if kind == "L2Norm":
        return f"tl.sqrt(tl.sum({x} * {x}, axis={axis}))"
    total = f"tl.sum({x}, axis={axis})"
    return f"{total} / {float(count)}" if kind == "Mean" else total


def _reduction(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    x, made = operands
    kind, axis = node.op.kind, int(node.op.attributes["dim"]) - 1
    back = "[None, :]" if axis == 0 else "[:, None]"
    return [
        f"{made} = {masked(x, tiles[0], axis, IDENTITIES[kind])}",
        f"{made} = ({reduced(kind, made, axis, tiles[0][axis])}){back}",
    ]


def _interleave(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    x, made = operands
    dim, k = (int(node.op.attributes[name]) for name in ("dim", "k"))
    kind = node.op.kind.removesuffix("Interleave")
    rows, columns = tiles[0]
    pitch = padded(columns)
    extents = [rows // k, k, columns]
    parts = [f"({places(extent, i, 3)})" for i, extent in enumerate(extents)]
    index = f"({parts[0]} * {k} + {parts[1]}) * {pitch} + {parts[2]}"
    if dim == 2:
        extents = [rows, columns // k, k]
        parts = [f"({places(e, i, 3)})" for i, e in enumerate(extents)]
        index = f"{parts[0]} * {pitch} + {parts[1]} * {k} + {parts[2]}"
    is_padding = f"{places(k, dim, 3)} >= {k}"
    return [
        f"{made} = {picked(x, tiles[0], index, extents)}",
        f"{made} = tl.where({is_padding}, {IDENTITIES[kind]}, {made})",
        f"{made} = {reduced(kind, made, dim, k)}",
    ]


def _product(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    del node
    x, y, made = operands
    x_rows, depth = padded_tile(tiles[0])
    y_rows, _ = padded_tile(tiles[1])
    lines = [
        f"{made}_x = {masked(x, tiles[0], 1, '0.0')}",
        f"{made}_y = {masked(y, tiles[1], 1, '0.0')}",
    ]
    if x_rows * y_rows * depth <= SMALL_PRODUCT:
        each = f"{made}_y[:, None, :] * {made}_x[None, :, :]"
        return [*lines, f"{made} = tl.sum({each}, axis=2)"]
    is_row = f"{places(x_rows, 0)} == {made}_j"
    is_column = f"{places(x_rows, 1)} == {made}_j"
    return [
        *lines,
        f"{made} = tl.zeros([{y_rows}, {x_rows}], tl.float32)",
        f"for {made}_j in range({tiles[0][0]}):",
        f"    {made}_row = tl.sum(tl.where({is_row}, {made}_x, 0.0), axis=0)",
        f"    {made}_dot = tl.sum({made}_y * {made}_row[None, :], axis=1)",
        f"    {made} = tl.where({is_column}, {made}_dot[:, None], {made})",
    ]


def _mask_slice(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    *_, made = operands
    values, tile = node.op.attributes, tiles[-1]
    axis = int(values["dim"]) - 1
    along = places(tile[axis], axis)
    start, end = int(values["start"]), int(values["end"])
    yes, no = full(tile, values["alpha"]), full(tile, values["beta"])
    test = f"({along} >= {start}) & ({along} < {end})"
    return [f"{made} = tl.where({test}, {yes}, {no})"]


def _fill(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    return [f"{operands[-1]} = {full(tiles[-1], node.op.attributes['alpha'])}"]


def _reshape(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    del node
    x, made = operands
    old, new = tiles
    row, column = places(new[0], 0), places(new[1], 1)
    flat = f"({row} * {new[1]} + {column})"
    old_row, old_column = f"{flat} // {old[1]}", f"{flat} % {old[1]}"
    return [
        f"{made}_at = {old_row} * {padded(old[1])} + {old_column}",
        f"{made} = {picked(x, old, f'{made}_at', new)}",
    ]


def _transpose(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    del node, tiles
    x, made = operands
    return [f"{made} = tl.trans({x})"]


def _kron(
    node: Node, operands: Sequence[str], tiles: Sequence[Tile]
) -> list[str]:
    x, y, made = operands
    x_tile, y_tile, tile = tiles
    x_at, y_at = [], []
    for axis in (0, 1):
        place = f"({places(tile[axis], axis)})"
        if node.op.attributes[f"kron{axis + 1}"]:
            x_at.append(f"{place} // {y_tile[axis]}")
            y_at.append(f"{place} % {y_tile[axis]}")
        else:
            x_at.append(place if x_tile[axis] > 1 else f"{place} * 0")
            y_at.append(place if y_tile[axis] > 1 else f"{place} * 0")
    x_index = f"{x_at[0]} * {padded(x_tile[1])} + {x_at[1]}"
    y_index = f"{y_at[0]} * {padded(y_tile[1])} + {y_at[1]}"
    return [
        f"{made} = {picked(x, x_tile, x_index, tile)}",
        f"{made} = {made} * {picked(y, y_tile, y_index, tile)}",
    ]


_Code = Callable[[Node, Sequence[str], Sequence[Tile]], list[str]]

_FAMILIES: dict[tuple[str, ...], _Code] = {
    tuple(IDENTITIES): _reduction,
    tuple(f"{kind}Interleave" for kind in IDENTITIES): _interleave,
    ("GeMM", "GeMV"): _product,
    ("MaskSlice",): _mask_slice,
    ("Fill",): _fill,
    ("Reshape",): _reshape,
    ("Transpose",): _transpose,
    ("Kron",): _kron,
}
