"""Indexers on the seed's layout: the shipped flows', and all operators."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler_cases import (
    CASES,
    OVER_BLOCKS,
    Case,
    choose_by_mixture,
    indexer_context,
)
from kvcache.compiler import indexer
from kvcache.compiler.compiling import compile as compile_context
from kvcache.compiler.recording import record_indexer
from kvcache.compiler.registry import flow_class, flow_names
from kvcache.compiler.vtensor import FORMAT

if TYPE_CHECKING:
    from max.graph import DeviceRef, Module

    from kvcache.compiler.mojo_backend.segment_classes import SegmentIndexer

SWEEP = "sweep"
NAMES = (*flow_names(), SWEEP)


@cache
def indexer_class(name: str) -> "type[SegmentIndexer]":
    """Returns the compiled indexer of a flow, or that of all operators."""
    made: type[SegmentIndexer] = compile_context(recorded(name, None, "mojo"))
    return made


def add_indexers(module: "Module", device: "DeviceRef") -> None:
    """Adds the graphs, which give what kernels hand on, to a module."""
    from max.graph import Graph

    for plan in {indexer_class(name).plan: None for name in NAMES}:
        with Graph(
            plan.name,
            input_types=plan.inputs(device),
            custom_extensions=plan.extensions,
            module=module,
        ) as graph:
            graph.output(*plan.call(graph.inputs, device))


def extensions_of_indexers() -> list[Path]:
    """Returns their compiled modules, each once."""
    return sorted({indexer_class(name).plan.extension for name in NAMES})


def recorded(name: str, folder: Path | None, backend: str) -> Any:
    """Returns the context of an indexer, with the arrays of a step."""
    ctx = indexer_context(folder, backend)
    if name == SWEEP:
        _record_sweep(ctx)
    else:
        record_indexer(flow_class(name)(), ctx)
    return ctx


def one_of_each_kind() -> list[Case]:
    """Returns a call of every operator, and of reductions one each way."""
    reductions = {
        (case.kind, case.given.get("dim") == 2): case
        for case in CASES
        if "indexer" in case.sides and "dim" in case.given
    }
    others = {case.kind: case for case in CASES if "dim" not in case.given}
    products = {case.kind: case for case in CASES[::-1] if case.kind == "GeMM"}
    over_blocks = {case.kind: case for case in OVER_BLOCKS}
    return [
        *reductions.values(),
        *(others | products).values(),
        *over_blocks.values(),
    ]


def _record_sweep(ctx: Any) -> None:
    """Records every operator; the results of most are for nobody."""
    ctx.profile()
    cases = one_of_each_kind()
    tiles = sorted({(t, i) for c in cases for i, t in enumerate(c.tiles)})
    fields = {
        key: ctx.add_tensor(
            key[0], "float32", FORMAT.PAGED, name=f"cache['f{n}']"
        )
        for n, key in enumerate(tiles)
    }
    for case in cases:
        read = [fields[t, i] for i, t in enumerate(case.tiles)]
        if case in OVER_BLOCKS:
            read = [indexer.Add_Mul(alpha=3.0, beta=1.0)(*read, ctx=ctx)]
        case.op("indexer")(*read, ctx=ctx)
    choose_by_mixture(fields[(1, 24), 0], ctx)
    ctx.execute()
