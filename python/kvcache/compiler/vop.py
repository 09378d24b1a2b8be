"""Operators: recorded where a context profiles, and compiled from there."""

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from kvcache.compiler.modes import UNSET, Mode
from kvcache.compiler.vtensor import FORMAT, vTensor

if TYPE_CHECKING:
    from kvcache.compiler.context_base import ContextBase


class Schedule(IntEnum):
    """How an operator becomes part of a kernel."""

    W = 0
    """It works on one row alone, and is fused with others."""
    S = 1
    """It looks at many rows, and is a kernel of its own."""


class vOp:  # noqa: N801  (the seed's name)
    """One call of an operator in a pipeline.

    An instance keeps what its call made, so each call site has its own.
    """

    schedule: Schedule = Schedule.S
    """How the operator becomes part of a kernel."""

    output_format: FORMAT | None
    """What the rows of the result stand for; None before the call."""
    output_buffer: vTensor | None
    """The result; None before the call."""

    def __init__(self) -> None:
        """Has not been called yet."""
        self.output_format = None
        self.output_buffer = None
        self._recording: list[vOp] | None = None

    @property
    def kind(self) -> str:
        """The operator's name, by which code is generated."""
        return type(self).__name__

    @property
    def attributes(self) -> dict[str, int | float]:
        """The constants that the operator was made with, by name."""
        return {}

    def __call__(self, *args: Any, ctx: "ContextBase", **kwargs: Any) -> Any:
        """Records the call, or computes it; see the context's mode.

        Raises:
            ValueError: If the context has another mode.
            AssertionError: If the operands do not fit, by its name.
            RuntimeError: If the operator was called in a pipeline before.
        """
        if ctx.mode == Mode.PROFILE:
            self._check_is_new(ctx)
            return self.profile(*args, ctx=ctx, **kwargs)
        if ctx.mode == Mode.EXECUTE or ctx.mode in {None, UNSET}:
            return self.execute(*args, ctx=ctx, **kwargs)
        raise ValueError(f"Unknown mode {ctx.mode!r}")

    def was_recorded(self, recording: "list[vOp]", output: vTensor) -> None:
        """Keeps what the call made.

        Args:
            recording: The context's `op_list`; it stands for one recording.
            output: What the call makes.
        """
        self._recording = recording
        self.output_format = output.format
        self.output_buffer = output

    def profile(self, *args: Any, **kwargs: Any) -> Any:
        """Checks the operands and records the call.

        Raises:
            NotImplementedError: If the operator cannot be recorded.
        """
        raise NotImplementedError(f"{self.kind}: profile is not implemented")

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the call.

        Raises:
            NotImplementedError: If only compiled pipelines compute it.
        """
        raise NotImplementedError(
            f"{self.kind}: wanted a compiled pipeline, which computes it"
        )

    def _check_is_new(self, ctx: Any) -> None:
        op_list = getattr(ctx, "op_list", None)
        if op_list is not None and self._recording is op_list:
            raise RuntimeError(
                f"{self.kind}: wanted an operator for each call, got a second "
                "call of one in the same recording"
            )
