"""Without fusion there is a kernel for each operator, with equal results."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from max.driver import CPU
from max.engine import InferenceSession
from max.graph import DeviceRef

from compiler_cases import BLOCK, HEADS, PAGE, PAGES, cache_context, drawn
from kernels.batch import REGIMES, regimes
from kernels.flow_checks import check_scores, check_summaries
from kernels.flow_configuration import sizes
from kernels.flows import (
    FlowConfiguration,
    FlowKernels,
    extensions_of,
    flow_module,
)
from kernels.models import CompiledKernels
from kvcache.compiler import cache as c
from kvcache.compiler import indexer as i
from kvcache.compiler.compiling import compile as compile_context
from kvcache.compiler.flow import vFlow
from kvcache.compiler.mojo_backend import slot_classes
from kvcache.compiler.recording import record_cache
from kvcache.compiler.vtensor import vTensor
from kvcache.mojo_sources import precompiled_package

ON_CACHE_SIDE = 5
ON_INDEXER_SIDE = 3


class Steps(vFlow):
    """Summaries and scores of several steps; one reads a field."""

    def create_cache(
        self, block_size: int, head_dim: int
    ) -> dict[str, tuple[int, int]]:
        """Declares a mean, and its norm."""
        del block_size
        return {"mean": (1, head_dim), "norm": (1, 1)}

    def forward_cache(
        self, cache: Mapping[str, vTensor], loc: Any, ctx: Any
    ) -> None:
        """Calls the operators of `ON_CACHE_SIDE`."""
        size = c.Abs(0.1, 2.0)(cache["k"], loc=loc, ctx=ctx)
        pairs = c.MaxInterleave(dim=1, k=2)(size, loc=loc, ctx=ctx)
        both = c.Multiply()(pairs, pairs, loc=loc, ctx=ctx)
        c.Mean(dim=1)(both, cache["mean"], loc=loc, ctx=ctx)
        c.L2Norm(dim=2)(cache["mean"], cache["norm"], loc=loc, ctx=ctx)

    def forward_indexer(
        self, q: vTensor, o: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> None:
        """Calls the operators of `ON_INDEXER_SIDE`, and chooses."""
        product = i.GeMV()(i.Mean(dim=1)(q, ctx=ctx), cache["mean"], ctx=ctx)
        i.topK()(i.Add()(product, cache["norm"], ctx=ctx), o, ctx=ctx)


POOL = FlowConfiguration(
    flow=Steps,
    block_size=16,
    field_dtype="float32",
    sizes=sizes("float32", page_size=32, heads=(2, 3), head_dim=24),
)


def launches(module: Path, call: str) -> int:
    """How often a kernel is launched on a GPU by a generated module."""
    text = module.with_suffix(".mojo").read_text("utf-8")
    return len(re.findall(rf"^ +{call}\b", text, re.MULTILINE))


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> Any:
    ctx = cache_context(tmp_path_factory.mktemp("unfused"), "mojo")
    record_cache(Steps(), ctx)
    return ctx


@pytest.fixture(scope="module")
def compiled(slots: Any) -> Iterator[Any]:
    """The flow on our pool and on the seed's layout, compiled together."""
    patch, device = pytest.MonkeyPatch(), CPU()
    patch.setenv("KVCACHE_DISABLE_FUSION", "1")
    module = flow_module([POOL], DeviceRef.CPU())
    class_ = compile_context(slots)
    plan = class_.plan_of()
    plan.graph(DeviceRef.CPU(), module)
    extensions = [*extensions_of([POOL]), plan.extension]
    models = InferenceSession(devices=[device]).load_all(
        module, custom_extensions=[precompiled_package(), *extensions]
    )
    patch.setattr(slot_classes, "loaded", lambda plan, _: models[plan.name])
    yield class_, FlowKernels(POOL, CompiledKernels(models, device)), extensions
    patch.undo()


def test_every_operator_has_a_launch(compiled: Any) -> None:
    _, _, (pool, slots) = compiled
    plain_and_quantized = 2
    assert (
        launches(pool, "summarise_gpu") == ON_CACHE_SIDE * plain_and_quantized
    )
    assert launches(pool, "score_gpu") == ON_INDEXER_SIDE * plain_and_quantized
    assert launches(slots, "summarise_slots_gpu") == ON_CACHE_SIDE


def test_a_fused_cache_side_has_one_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KVCACHE_DISABLE_FUSION", raising=False)
    ctx = cache_context(tmp_path, "mojo")
    record_cache(Steps(), ctx)
    plan = compile_context(ctx).plan_of()
    assert launches(plan.extension, "summarise_slots_gpu") == 1


@pytest.mark.parametrize("regime", REGIMES)
def test_results_on_our_pool_equal_numpy(compiled: Any, regime: str) -> None:
    _, kernels, _ = compiled
    batch = regimes(POOL.sizes.page_size)[regime]
    check_summaries(kernels, batch)
    check_scores(kernels, batch)


def test_results_on_the_seeds_layout_equal_numpy(
    compiled: Any, slots: Any
) -> None:
    class_, _, _ = compiled
    rows = PAGES * PAGE // BLOCK * HEADS
    pool = {
        "k": drawn((rows, BLOCK, 24), 1),
        "v": drawn((rows, BLOCK, 24), 2),
        "mean": np.full((rows, 1, 24), -7, np.float32),
        "norm": np.full((rows, 1, 1), -7, np.float32),
    }
    wanted = {name: array.copy() for name, array in pool.items()}
    slots.impl_backend = "numpy"
    reference = compile_context(slots)
    slots.impl_backend = "mojo"
    for loc in ([], [14], [15, 3, 47], list(range(PAGES * PAGE))):
        reference().forward(wanted, np.array(loc, np.int64), slots)
        class_().forward(pool, np.array(loc, np.int64), slots)
        for name, array in wanted.items():
            np.testing.assert_allclose(pool[name], array, rtol=2e-5, atol=2e-5)
