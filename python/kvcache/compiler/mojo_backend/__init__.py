"""Pipelines as Mojo, for graphs of MAX on the CPU and on GPUs."""

from kvcache.compiler.mojo_backend.flows import (
    FlowPrograms,
    flow_ops,
    flow_programs,
)

__all__ = ["FlowPrograms", "flow_ops", "flow_programs"]
