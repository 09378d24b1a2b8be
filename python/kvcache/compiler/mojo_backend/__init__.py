"""Pipelines as Mojo, for graphs of MAX on the CPU and on GPUs."""

from typing import Any

from kvcache.compiler.mojo_backend.flows import (
    FlowPrograms,
    flow_ops,
    flow_programs,
)
from kvcache.compiler.program import Program

__all__ = ["FlowPrograms", "compiled_class", "flow_ops", "flow_programs"]


def compiled_class(program: Program, ctx: Any) -> type[Any]:
    """Returns the class that runs one side on the seed's layout.

    See `slot_classes.compiled_class`, which needs MAX.
    """
    from kvcache.compiler.mojo_backend import slot_classes

    return slot_classes.compiled_class(program, ctx)
