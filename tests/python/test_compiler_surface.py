import inspect
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from flow_contexts import cache_context
from kvcache import compiler
from kvcache.compiler import cache, indexer
from paths import ROOT

SEED_FIELDS = {
    "max_new_tokens_per_batch": int,
    "page_size": int,
    "total_num_pages": int,
    "block_size": int,
    "num_blocks_per_page": int,
    "total_num_blocks": int,
    "head_dim": int,
    "head_num": int,
    "num_sms": int,
    "tensor_list": list,
    "op_list": list,
    "output_tensor_to_op_list": list,
    "op_to_input_tensor_list": list,
    "op_to_output_tensor_list": list,
    "sparse_attention_name": str,
    "impl_backend": str,
    "tensor_id_to_tensor_name_map": dict,
    "compilation_header_lines": list,
    "auxilary_func_def_lines": list,
    "compilation_cache_dir": str | None,
    "name": str,
    "mode": str,
    "vortex_dtype": str,
}
"""Every field of the seed document, with the type of its value here."""

PUBLIC = {
    "Context",
    "ContextBase",
    "FORMAT",
    "Mode",
    "Schedule",
    "UNSET",
    "as_vtensor",
    "cache",
    "compile",
    "ctx",
    "flows",
    "get_ctx",
    "indexer",
    "register",
    "vFlow",
    "vOp",
    "vTensor",
}

BOTH_SIDES = {
    *("Mean", "Max", "Min", "L2Norm", "Sum"),
    *("MeanInterleave", "MaxInterleave", "MinInterleave"),
    *("L2NormInterleave", "SumInterleave"),
    "GeMM",
    *("Relu", "Silu", "Sigmoid", "Add_Mul", "Abs", "Log", "Exp"),
    *("Maximum", "Minimum", "Add", "Multiply"),
    *("WhereEqual", "WhereNotEqual", "WhereGreater", "WhereGreaterEqual"),
    *("WhereLess", "WhereLessEqual"),
    *("MaskSlice", "Reshape"),
}
CACHE_ONLY = {"Fill"}
INDEXER_ONLY = {"GeMV", "Kron", "Transpose", "Softmax", "Normalize", "topK"}


@pytest.mark.parametrize("name", SEED_FIELDS)
def test_context_has_each_field_of_the_seed(name: str) -> None:
    created = cache_context()
    assert isinstance(getattr(created, name), SEED_FIELDS[name])
    setattr(created, name, getattr(created, name))


def test_context_is_the_seeds_class() -> None:
    assert issubclass(compiler.Context, compiler.ContextBase)
    assert compiler.Context is cache.Context
    assert compiler.get_ctx() is compiler.ctx is cache.get_ctx() is cache.ctx
    assert isinstance(compiler.ctx, compiler.Context)
    assert not compiler.ctx.created


def test_create_has_the_seeds_signature() -> None:
    for side in (cache, indexer):
        parameters = inspect.signature(side.Context.create).parameters
        assert list(parameters) == [
            "self",
            "parent",
            "model_runner",
            "overwrite",
        ]
        overwrite = parameters["overwrite"]
        assert overwrite.kind is inspect.Parameter.KEYWORD_ONLY
        assert overwrite.default is False


@pytest.mark.parametrize(
    "name",
    [
        "add_aux_flops",
        "add_aux_memory",
        "assert_created",
        "clear_aux_flops",
        "clear_aux_memory",
        "create",
        "execute",
        "missing",
        "profile",
        "summary",
    ],
)
def test_context_has_each_method_of_the_seed(name: str) -> None:
    assert callable(getattr(compiler.Context, name))


def test_package_names_what_users_need() -> None:
    assert set(compiler.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(compiler, name) is not None


def test_compile_stays_a_function_and_asks_the_backends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = SimpleNamespace(compile=lambda ctx: (type, ctx))
    name = "kvcache.compiler.compiling"
    monkeypatch.setitem(sys.modules, name, compiled)
    created = cache_context()
    for _ in range(2):
        assert compiler.compile(created) == (type, created)
        # As loading the submodule does.
        monkeypatch.setattr(
            compiler, "compiling", ModuleType(name), raising=False
        )
    assert inspect.isfunction(compiler.compile)


def test_both_sides_name_their_operators() -> None:
    shared = {"Context", "ctx", "get_ctx"}
    assert set(cache.__all__) == shared | BOTH_SIDES | CACHE_ONLY
    assert set(indexer.__all__) == shared | BOTH_SIDES | INDEXER_ONLY
    for side in (cache, indexer):
        for name in set(side.__all__) - shared:
            assert issubclass(getattr(side, name), compiler.vOp)
            assert getattr(side, name).__name__ == name


def test_importing_the_compiler_loads_neither_engine_nor_torch() -> None:
    code = (
        "import sys, kvcache.compiler as c; c.cache, c.indexer, c.flows;"
        "from kvcache.compiler import recording, registry, parents, runners;"
        "print({'max', 'torch', 'triton'} & set(sys.modules))"
    )
    path = os.pathsep.join([str(ROOT / "python"), *sys.path])
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "set()\n", "")
