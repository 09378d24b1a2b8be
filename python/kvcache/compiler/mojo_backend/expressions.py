"""Writes how an element of a tile is computed, from the tiles it reads."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kvcache.compiler.mojo_backend.code import (
    Code,
    Index,
    number,
    scaled,
    split,
)
from kvcache.compiler.mojo_backend.meanings import (
    REDUCED_ACROSS,
    Folding,
    elementwise,
    folding,
    is_interleave,
)
from kvcache.compiler.mojo_backend.pipeline import Pipeline, Place
from kvcache.compiler.program import Node

MOST_UNROLLED = 16
"""Rounds of a loop that are written one by one."""


@dataclass(frozen=True, slots=True)
class At:
    """Elements side by side: a row, a first column, and how many.

    `chunk` is the round of the team in which a lane has these columns; None
    where they are others than its own.
    """

    row: Index
    column: Index
    width: int = 1
    chunk: int | None = None


@dataclass(slots=True)
class Expressions:
    """The elements of one kernel's tiles.

    Args:
        code: Where lines are added.
        pipeline: The kernel.
        places: Where materialised tensors are.
        leaves: What tiles of others are called.
    """

    code: Code
    pipeline: Pipeline
    places: Mapping[int, Place]
    leaves: dict[int, str] = field(default_factory=dict)
    registers: dict[tuple[int, Index, int | None], str] = field(
        default_factory=dict
    )
    """Names of numbers that a lane holds: of a tensor, a row and a round."""
    is_ready: set[int] = field(default_factory=set)
    """Materialised tensors that are computed."""

    def value(self, tensor: int, at: At) -> str:
        """Returns a name of elements; adds the lines that compute them."""
        key = (tensor, at)
        known = self.code.known(key)
        if known is not None:
            return known
        if tensor in self.is_ready:
            place = self.places[tensor]
            if place is not Place.MEMORY:
                chunk = at.chunk if place is Place.LANES else None
                return self.registers[tensor, at.row, chunk]
            text = f"kept_{tensor}.load[{at.width}]({at.row}, {at.column})"
            return self.code.let(key, f"t{tensor}", text)
        node = self.pipeline.makers.get(tensor)
        if node is None:
            leaf = self.leaves[tensor]
            text = f"{leaf}.load[{at.width}]({at.row}, {at.column})"
        else:
            text = self._computed(node, at)
        return self.code.let(key, f"t{tensor}", text)

    def _computed(self, node: Node, at: At) -> str:
        kind = node.op.kind
        writers: dict[str, Callable[[Node, At], str]] = {
            "Fill": self._filled,
            "MaskSlice": self._mask,
            "Reshape": self._reshaped,
            "Transpose": self._transposed,
            "Kron": self._kron,
        }
        if kind in writers:
            return writers[kind](node, at)
        if is_interleave(node):
            return self._interleaved(node, at)
        values = [self._broadcast(each, node, at) for each in node.inputs]
        text = elementwise(node, values)
        if text is None:
            raise NotImplementedError(f"{kind}: the mojo backend has no code")
        return text

    def _tile(self, tensor: int) -> tuple[int, int]:
        return self.pipeline.tensors[tensor].tile

    def _filled(self, node: Node, at: At) -> str:
        value = number(node.op.attributes["alpha"])
        return f"SIMD[DType.float32, {at.width}]({value})"

    def _broadcast(self, tensor: int, node: Node, at: At) -> str:
        rows, columns = self._tile(tensor)
        row = 0 if rows == 1 else at.row
        if columns == self._tile(node.output)[1]:
            return self.value(tensor, At(row, at.column, at.width, at.chunk))
        return self._spread(self.value(tensor, At(row, 0)), at)

    def _spread(self, name: str, at: At) -> str:
        if at.width == 1:
            return name
        return f"SIMD[DType.float32, {at.width}]({name})"

    def _mask(self, node: Node, at: At) -> str:
        attributes = node.op.attributes
        dim = attributes["dim"]
        place = at.row if dim == 1 else at.column
        width = 1 if dim == 1 else at.width
        text = (
            f"slice_mask[{width}]({place}, start={attributes['start']}, "
            f"end={attributes['end']}, inside={number(attributes['alpha'])}, "
            f"outside={number(attributes['beta'])})"
        )
        return text if width == at.width else self._spread(text, at)

    def _gathered(self, at: At, element: list[str]) -> str:
        if at.width == 1:
            return element[0]
        return f"SIMD[DType.float32, {at.width}]({', '.join(element)})"

    def _reshaped(self, node: Node, at: At) -> str:
        (x,) = node.inputs
        length, columns = self._tile(node.output)[1], self._tile(x)[1]
        if columns == length:
            return self.value(x, at)
        width = math.gcd(at.width, columns & -columns)
        parts = []
        for first in range(0, at.width, width):
            column = scaled(at.column, 1, first)
            flat = _plus(scaled(at.row, length), column)
            row, place = split(flat, columns)
            parts.append(self.value(x, At(row, place, width)))
        if width == at.width:
            return parts[0]
        if width > 1:
            parts = [f"{p}[{i}]" for p in parts for i in range(width)]
        return self._gathered(at, parts)

    def _transposed(self, node: Node, at: At) -> str:
        (x,) = node.inputs
        return self._gathered(
            at,
            [
                self.value(x, At(scaled(at.column, 1, i), at.row))
                for i in range(at.width)
            ],
        )

    def _kron(self, node: Node, at: At) -> str:
        x, y = node.inputs
        by_rows, by_columns = (
            bool(node.op.attributes[name]) for name in ("kron1", "kron2")
        )
        x_row: Index = 0 if self._tile(x)[0] == 1 else at.row
        y_row: Index = 0 if self._tile(y)[0] == 1 else at.row
        if by_rows:
            x_row, y_row = split(at.row, self._tile(y)[0])
            if self._tile(x)[0] == 1:
                x_row = 0
        if not by_columns:
            left, right = (
                self._of_row(tensor, row, node, at)
                for tensor, row in ((x, x_row), (y, y_row))
            )
            return f"{left} * {right}"
        parts = []
        for i in range(at.width):
            x_column, y_column = split(
                scaled(at.column, 1, i), self._tile(y)[1]
            )
            left = self.value(x, At(x_row, x_column))
            right = self.value(y, At(y_row, y_column))
            parts.append(f"{left} * {right}")
        return self._gathered(at, parts)

    def _of_row(self, tensor: int, row: Index, node: Node, at: At) -> str:
        if self._tile(tensor)[1] == self._tile(node.output)[1]:
            return self.value(tensor, At(row, at.column, at.width, at.chunk))
        return self._spread(self.value(tensor, At(row, 0)), at)

    def _interleaved(self, node: Node, at: At) -> str:
        (x,) = node.inputs
        how, k = folding(node), int(node.op.attributes["k"])
        assert how is not None
        if node.op.attributes["dim"] == 1:
            rows = _Group(at.row, k)
            return self._folded(
                x,
                how,
                k,
                lambda i: At(rows.place(i), at.column, at.width, at.chunk),
            )
        parts = []
        for j in range(at.width):
            columns = _Group(scaled(at.column, 1, j), k)
            text = self._folded(x, how, k, columns.in_row(at.row))
            parts.append(self.code.let(object(), "group", text))
        return self._gathered(at, parts)

    def _folded(
        self, x: int, how: Folding, k: int, place: Callable[[Index], At]
    ) -> str:
        """Folds a group; adds lines, and returns the result's expression."""
        folded = self.code.name("folded")
        width = place(0).width
        self.code.line(
            f"var {folded} = SIMD[DType.float32, {width}]({how.first})"
        )
        if k <= MOST_UNROLLED:
            for i in range(k):
                name = self.value(x, place(i))
                self.code.line(
                    f"{folded} = {how.step.format(a=folded, x=name)}"
                )
        else:
            count = self.code.name("i")
            with self.code.block(f"for {count} in range({k}):"):
                name = self.value(x, place(count))
                self.code.line(
                    f"{folded} = {how.step.format(a=folded, x=name)}"
                )
        return how.last.format(a=folded, n=k)


@dataclass(frozen=True, slots=True)
class _Group:
    """Adjacent elements of an axis that become one."""

    number: Index
    length: int

    def place(self, i: Index) -> Index:
        """Returns where one of them is."""
        return _plus(scaled(self.number, self.length), i)

    def in_row(self, row: Index) -> Callable[[Index], At]:
        """Returns what gives the place of each of them in a row."""
        return lambda i: At(row, self.place(i))


def across(how: Folding, name: str, *, width: int) -> str:
    """Returns the fold of all that the lanes of a team have."""
    own = f"{name}.{REDUCED_ACROSS[how.across]}()" if width > 1 else name
    return f"team.{how.across}({own})"


def _plus(a: Index, b: Index) -> Index:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return f"({a} + {b})"
