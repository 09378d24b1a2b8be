"""Writes the structs of a flow: a summariser, and the kernels of a scorer."""

from dataclasses import dataclass

from kvcache.compiler.mojo_backend.bindings import Bindings
from kvcache.compiler.mojo_backend.bodies import Body, bodies, wide_body
from kvcache.compiler.mojo_backend.pipeline import Pipeline
from kvcache.compiler.mojo_backend.structs import (
    held_method,
    members,
    method,
    struct,
)


@dataclass(frozen=True, slots=True)
class KernelText:
    """A struct of the generated module."""

    name: str
    """The struct."""
    text: str
    """Its definition."""
    members: tuple[str, ...]
    """Its members, in the order of its initialiser."""
    is_per_block: bool = True
    """Whether it computes something for each block."""
    kept: int = 0
    """The numbers that a team keeps in shared memory."""


def summariser(
    pipeline: Pipeline,
    bindings: Bindings,
    name: str = "Summarise",
    *,
    holds_blocks: bool = False,
) -> KernelText:
    """Writes what makes the summaries of a block and head.

    Args:
        pipeline: What it computes.
        bindings: Where its tensors are.
        name: The struct.
        holds_blocks: Whether it takes keys in shared memory, too.
    """
    tensors = (*pipeline.leaves, *pipeline.stores)
    cpu, gpu = bodies(pipeline, (16, 8, 4), bindings, None)
    traits = "CpuSummariser, WideSummariser"
    if holds_blocks:
        traits = "CpuSummariser, BlockSummariser, HeldSummariser"
    text = struct(
        name, tensors, bindings, kept=gpu.kept, lanes=gpu.lanes, traits=traits
    )
    text += method("summarise_cpu(self, place: BlockPlace)", cpu.text)
    text += _team_method("summarise_gpu", "lanes", gpu)
    wide = wide_body(pipeline, bindings, columns_each=2) or gpu
    text += f"    comptime wide_lanes = {wide.lanes}\n\n"
    text += _team_method("summarise_wide", "wide_lanes", wide)
    if holds_blocks:
        held = wide_body(pipeline, bindings, columns_each=1) or gpu
        text += f"    comptime held_lanes = {held.lanes}\n\n"
        text += _team_method("summarise_held", "held_lanes", held)
        text += held_method(tensors, bindings)
    return KernelText(name, text, members(tensors, bindings), kept=gpu.kept)


def scorer(name: str, pipeline: Pipeline, bindings: Bindings) -> KernelText:
    """Writes a kernel that goes through the blocks of a sequence and head."""
    tensors = (*pipeline.leaves, *pipeline.stores)
    is_per_block = any(not bindings.is_request(x) for x in pipeline.stores)
    cpu, gpu = bodies(pipeline, (4, 8, 16), bindings, is_per_block)
    text = struct(
        name,
        tensors,
        bindings,
        kept=gpu.kept,
        lanes=gpu.lanes,
        traits="CpuScorer, GpuScorer",
    )
    text += method("score_cpu(self, at: RequestPlace)", cpu.text)
    text += method(
        "score_gpu(self, team: Team[Self.lanes], at: RequestPlace, *, "
        "first: Int, index: Int, step: Int, kept: Shared[Float32])",
        gpu.text,
    )
    own = ("tables", *members(tensors, bindings))
    return KernelText(name, text, own, is_per_block)


def _team_method(name: str, lanes: str, body: Body) -> str:
    """Writes a method for the lanes of a team."""
    return method(
        f"{name}(self, team: Team[Self.{lanes}], place: BlockPlace, "
        "is_there: Bool, kept: Shared[Float32])",
        body.text,
    )
