"""Triton code of every operator is Python; tests/gpu runs it."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler_cases import (
    CASES,
    OVER_BLOCKS,
    Case,
    cache_context,
    fields_for,
    indexer_context,
    recorded_on_cache,
    recorded_on_indexer,
)
from kvcache.compiler import cache, indexer
from kvcache.compiler.graph import program_of
from kvcache.compiler.numpy_backend.expressions import kinds as numpy_kinds
from kvcache.compiler.recording import record_cache, record_indexer
from kvcache.compiler.registry import flow_class, flow_names
from kvcache.compiler.triton_backend import triton_module
from kvcache.compiler.triton_backend.expressions import kinds
from kvcache.compiler.vtensor import FORMAT
from paths import ROOT


def functions(ctx: Any) -> dict[str, ast.FunctionDef]:
    """The functions of a pipeline's module, without the pipeline's name."""
    module = triton_module(program_of(ctx), ctx)
    tree = ast.parse(module.text)
    assert module.name in module.entry_class
    return {
        each.name.removeprefix(module.name): each
        for each in tree.body
        if isinstance(each, ast.FunctionDef)
    }


def unknown_names(kernel: ast.FunctionDef) -> set[str]:
    """Names that a kernel reads and nobody gives it."""
    names = [n for n in ast.walk(kernel) if isinstance(n, ast.Name)]
    given = {arg.arg for arg in kernel.args.args}
    made = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
    return read - given - made - {"tl", "triton", "range", "float"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_reads_only_what_it_has(case: Case, tmp_path: Path) -> None:
    found = []
    if "cache" in case.sides:
        ctx: Any = cache_context(tmp_path, "triton")
        recorded_on_cache(case, ctx)
        found.append(functions(ctx))
    ctx = indexer_context(tmp_path, "triton")
    recorded_on_indexer(case, ctx)
    found.append(functions(ctx))
    for made in found:
        names = [f"_subgraph_0_{part}" for part in ("kernel", "impl")]
        assert [*made] == [*names, "_subgraph_0_interface"]
        assert unknown_names(made["_subgraph_0_kernel"]) == set()


@pytest.mark.parametrize("case", OVER_BLOCKS, ids=str)
def test_kernel_over_blocks_reads_only_what_it_has(
    case: Case, tmp_path: Path
) -> None:
    ctx = indexer_context(tmp_path, "triton")
    (field,) = fields_for(ctx, case.tiles)
    copy = indexer.Add_Mul(alpha=3.0)(field, ctx=ctx)
    case.op("indexer")(copy, ctx=ctx)
    assert unknown_names(functions(ctx)["_subgraph_1_kernel"]) == set()


def test_every_operator_has_code() -> None:
    on_tiles = set(kinds())
    assert on_tiles | {"Softmax", "Normalize"} == set(numpy_kinds())


@pytest.mark.parametrize("name", flow_names())
def test_flows_have_code(name: str, tmp_path: Path) -> None:
    cache_ctx = cache_context(tmp_path, "triton")
    ctx = indexer_context(tmp_path, "triton")
    record_cache(flow_class(name)(), cache_ctx)
    record_indexer(flow_class(name)(), ctx)
    for each in (cache_ctx, ctx):
        for kernel in functions(each).values():
            if kernel.name.endswith("_kernel"):
                assert unknown_names(kernel) == set()


class Unheard(cache.Abs):
    """An operator that no backend knows."""


def test_an_operator_without_code_is_named(tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "triton")
    x, out = fields_for(ctx, ((1, 5), (1, 5)))
    Unheard()(x, out, loc=np.empty(0, np.int64), ctx=ctx)
    with pytest.raises(NotImplementedError, match="Unheard: the Triton"):
        functions(ctx)


def test_integers_are_not_written(tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "triton")
    (x,) = fields_for(ctx, ((1, 5),))
    out = ctx.add_tensor((1, 5), "int8", FORMAT.PAGED, name="cache['codes']")
    cache.Abs()(x, out, loc=np.empty(0, np.int64), ctx=ctx)
    with pytest.raises(NotImplementedError, match="codes: the Triton"):
        functions(ctx)


def test_the_package_needs_neither_torch_nor_triton() -> None:
    code = (
        "import sys; from kvcache.compiler import compiling, triton_backend;"
        "sys.exit(bool({'torch', 'triton'} & set(sys.modules)))"
    )
    env = {"PYTHONPATH": str(ROOT / "python"), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
