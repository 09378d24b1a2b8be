"""Operators on the tiles `[r, c]` inside the rows of their operands."""

from collections.abc import Sequence
from operator import index
from typing import ClassVar, SupportsIndex

from kvcache.compiler.element_types import EIGHT_BITS, FLOATS
from kvcache.compiler.graph_context import GraphContext
from kvcache.compiler.program import Side
from kvcache.compiler.vop import Schedule, vOp
from kvcache.compiler.vtensor import FORMAT, vTensor

Tile = tuple[int, int]
"""The extents inside a row."""


class TileOp(vOp):
    """An operator whose result has a tile that follows from its operands'."""

    schedule = Schedule.W

    arity: ClassVar[int] = 1
    """Tensors that the operator reads."""

    def result_tile(self, *tiles: Tile) -> Tile:
        """Returns the extents inside a row of the result.

        Args:
            *tiles: Those of the operands, `arity` many.

        Raises:
            AssertionError: If they do not fit, by the operator's name.
        """
        (tile,) = tiles
        return tile

    def require(self, holds: bool, message: str) -> None:
        """Does nothing if a condition holds.

        Raises:
            AssertionError: If not, with the operator's name and the message.
        """
        if not holds:
            raise AssertionError(f"{self.kind}: {message}")

    def whole(self, name: str, value: SupportsIndex) -> int:
        """Returns a constant that is a whole number.

        Raises:
            AssertionError: If it is none, by the operator's name; a bool is
                none.
        """
        try:
            number = None if isinstance(value, bool) else index(value)
        except TypeError:
            number = None
        if number is None:
            raise AssertionError(
                f"{self.kind}: wanted {name} to be an int, got {value!r}"
            )
        return number

    def read_operands(
        self,
        operands: Sequence[object],
        ctx: GraphContext,
        formats: tuple[FORMAT, ...],
    ) -> list[vTensor]:
        """Returns the tensors that a call reads.

        Args:
            operands: What the call was given.
            ctx: The context that records it.
            formats: What the rows of operands may stand for.

        Returns:
            What stands for each operand now; see `GraphContext.current`.

        Raises:
            TypeError: If the count of operands is another.
            AssertionError: If one is no tensor of this recording, its rows
                stand for something else, or they are on several devices.
            ValueError: If the elements of one are no floats and no codes.
        """
        if len(operands) != self.arity:
            raise TypeError(
                f"{self.kind}: wanted {self.arity} operands, got "
                f"{len(operands)}"
            )
        read = [
            ctx.current(self._one_of(ctx, each, name, formats))
            for name, each in zip("xy", operands, strict=False)
        ]
        for name, each in zip("xy", read, strict=False):
            if each.dtype not in FLOATS + EIGHT_BITS:
                raise ValueError(
                    f"{self.kind}: wanted {name} of a float type, got "
                    f"{each.dtype}"
                )
            self.require_same_device(read[0], each)
        return read

    def require_side(self, ctx: GraphContext, side: Side) -> None:
        """Does nothing if a context is created, and of a side.

        Raises:
            AssertionError: If it is of the other side, or no such context.
            RuntimeError: If it is not created.
        """
        self.require(
            getattr(ctx, "side", None) is side,
            f"wanted a context of the {side} side, got {type(ctx).__name__} "
            f"of the {getattr(ctx, 'side', None)} side",
        )
        ctx.assert_created()

    def require_same_device(self, x: vTensor, y: vTensor) -> None:
        """Does nothing if two tensors are on one device.

        Raises:
            AssertionError: If not.
        """
        self.require(
            x.device == y.device,
            f"wanted all tensors on one device, got {x.device} and {y.device}",
        )

    def _one_of(
        self,
        ctx: GraphContext,
        given: object,
        name: str,
        formats: tuple[FORMAT, ...],
    ) -> vTensor:
        """Returns what was given, a tensor of the recording."""
        if not isinstance(given, vTensor):
            raise AssertionError(  # noqa: TRY004 - the seed's type
                f"{self.kind}: wanted {name} to be a vTensor, got "
                f"{type(given).__name__}"
            )
        self.require(
            ctx.holds(given),
            f"wanted {name} to be a tensor of this recording, got {given}",
        )
        wanted = " or ".join(each.name for each in formats)
        self.require(
            given.format in formats,
            f"wanted {name} of format {wanted}, got {given}",
        )
        return given
