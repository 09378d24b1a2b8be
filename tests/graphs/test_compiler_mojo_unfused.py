"""Without fusion there is a kernel for each operator, with equal results."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer, Device
from max.engine import Model

from compiler_cases import BLOCK, HEADS, PAGE, PAGES, drawn
from kernels.batch import REGIMES, regimes
from kernels.flow_checks import check_scores, check_summaries
from kernels.flows import FlowKernels, extensions_of
from kernels.models import CompiledKernels
from kernels.unfused import (
    ON_CACHE_SIDE,
    ON_INDEXER_SIDE,
    POOL,
    recorded_slots,
    slots_class,
    without_fusion,
)
from kvcache.compiler.compiling import compile as compile_context
from kvcache.compiler.graph import program_of
from kvcache.compiler.mojo_backend.slot_classes import SlotCache
from kvcache.compiler.mojo_backend.slot_modules import slot_text

ROWS = PAGES * PAGE // BLOCK * HEADS


def launches(text: str, call: str) -> int:
    """How often a kernel is launched on a GPU by a generated text."""
    return len(re.findall(rf"^ +{call}\b", text, re.MULTILINE))


def operation(text: str, name: str) -> str:
    """Returns the part of a generated text that is one operation."""
    _, _, behind = text.partition(f"struct {name}Op:")
    return behind.partition("@extensibility")[0]


@pytest.mark.parametrize("end", ["", "Quantized"])
def test_every_operator_on_our_pool_has_a_launch(end: str) -> None:
    with without_fusion():
        (module,) = extensions_of([POOL])
    text = module.with_suffix(".mojo").read_text("utf-8")
    for name, call, wanted in (
        ("Summarise", "summarise_gpu", ON_CACHE_SIDE),
        ("Score", "score_gpu", ON_INDEXER_SIDE),
        ("Store", "summarise_gpu", ON_CACHE_SIDE),
        ("RopeStore", "summarise_gpu", ON_CACHE_SIDE),
    ):
        assert launches(operation(text, f"{name}{end}"), call) == wanted


def test_a_cache_side_has_one_launch_only_if_fused(tmp_path: Path) -> None:
    fused = slot_text(program_of(recorded_slots(tmp_path, "mojo")))
    _, extension = slots_class().package
    unfused = extension.with_suffix(".mojo").read_text("utf-8")
    assert launches(fused, "summarise_slots_gpu") == 1
    assert launches(unfused, "summarise_slots_gpu") == ON_CACHE_SIDE


@pytest.mark.parametrize("regime", REGIMES)
def test_results_on_our_pool_equal_numpy(
    compiled_sparse_kernels: CompiledKernels, regime: str
) -> None:
    kernels = FlowKernels(POOL, compiled_sparse_kernels)
    batch = regimes(POOL.sizes.page_size)[regime]
    check_summaries(kernels, batch)
    check_scores(kernels, batch)


@pytest.fixture
def compiled(compiled_sparse_kernels: CompiledKernels) -> type[SlotCache]:
    plain = slots_class()

    class Running(plain):  # type: ignore[valid-type, misc]
        @classmethod
        def model_on(cls, device: Device) -> Model:
            assert device == compiled_sparse_kernels.device
            return compiled_sparse_kernels.models[plain.plan_of().name]

    return Running


def fields() -> dict[str, Any]:
    return {
        "k": drawn((ROWS, BLOCK, 24), 1),
        "v": drawn((ROWS, BLOCK, 24), 2),
        "mean": np.full((ROWS, 1, 24), -7, np.float32),
        "norm": np.full((ROWS, 1, 1), -7, np.float32),
    }


def test_results_on_the_seeds_layout_equal_numpy(
    compiled: type[SlotCache], tmp_path: Path
) -> None:
    reference = compile_context(recorded_slots(tmp_path, "numpy"))
    ctx = recorded_slots(tmp_path, "numpy")
    pool, wanted = fields(), fields()
    for loc in ([], [14], [15, 3, 47], list(range(PAGES * PAGE))):
        reference().forward(wanted, np.array(loc, np.int64), ctx)
        compiled().forward(pool, np.array(loc, np.int64), ctx)
        for name, array in wanted.items():
            np.testing.assert_allclose(pool[name], array, rtol=2e-5, atol=2e-5)


def test_buffers_are_written_as_arrays_are(compiled: type[SlotCache]) -> None:
    wanted, slots = fields(), np.array([15, 3, 47], np.int64)
    buffers = {name: Buffer.from_numpy(x) for name, x in fields().items()}
    compiled().forward(wanted, slots)

    compiled().forward(buffers, Buffer.from_numpy(slots))

    assert (wanted["mean"] != -7).any()
    for name, array in wanted.items():
        np.testing.assert_array_equal(buffers[name].to_numpy(), array)
