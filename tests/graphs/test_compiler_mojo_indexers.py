"""Indexers as classes, on the seed's layout, against NumPy's."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from max.driver import CPU, Buffer, Device
from max.engine import Model

from compiler_cases import (
    CASES,
    GROUP,
    OVER_BLOCKS,
    drawn,
    indexer_context,
)
from kernels.indexer_steps import ROWS, SIZES, drawn_pool, set_step
from kernels.indexers import NAMES, indexer_class, one_of_each_kind, recorded
from kernels.models import CompiledKernels
from kvcache.compiler import indexer
from kvcache.compiler.compiling import compile as compile_context
from kvcache.compiler.mojo_backend.segment_classes import SegmentIndexer
from kvcache.compiler.numpy_backend.choice import choose_blocks
from kvcache.compiler.vtensor import FORMAT


class Outputs:
    """A graph that gives what kernels hand on, and what it gave last."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.last: list[Any] = []

    def execute(self, *given: Any) -> None:
        self.last = [each.to_numpy() for each in self.model.execute(*given)]


def running(
    name: str, compiled: CompiledKernels
) -> tuple[type[SegmentIndexer], Outputs]:
    """Returns an indexer's class, over a graph that is compiled, and that."""
    plain = indexer_class(name)
    outputs = Outputs(compiled.models[plain.plan.name])

    class Running(plain):  # type: ignore[valid-type, misc]
        @classmethod
        def model_on(cls, device: Device) -> Any:
            assert device == compiled.device
            return outputs

    return Running, outputs


def scored_rows(ctx: Any, tensor: int) -> list[int]:
    bounds = ctx.dense_kv_indptr.tolist()
    segments = list(enumerate(pairwise(bounds)))
    if ctx.tensor_list[tensor]._format is FORMAT.BATCHED:
        return [i for i, (begin, end) in segments if end - begin > 1]
    return [x for _, (begin, end) in segments for x in range(begin, end - 1)]


@pytest.mark.parametrize("name", NAMES)
def test_indexer_chooses_what_numpy_chooses(
    name: str, compiled_sparse_kernels: CompiledKernels, tmp_path: Path
) -> None:
    ctx = recorded(name, tmp_path, "numpy")
    reference = compile_context(ctx)()
    compiled, outputs = running(name, compiled_sparse_kernels)
    compared = 0
    for seed, sizes in enumerate(SIZES * 3):
        set_step(ctx, sizes, seed)
        pool, q = drawn_pool(ctx, seed), drawn((len(sizes), GROUP, 24), seed)
        wanted, got = (np.full((60, 1, 1), -7, np.int32) for _ in range(2))
        reference.forward(q, wanted, pool, ctx)
        compiled().forward(q, got, pool, ctx)
        if sum(sizes) == 0:
            assert (got == -7).all()
            continue
        for tensor, tiles in zip(
            compiled.module.results, outputs.last, strict=True
        ):
            if tensor >= len(ctx.tensor_list):
                continue
            rows = scored_rows(ctx, tensor)
            right = getattr(reference, f"tensor_{tensor}")[rows]
            # Of what is no number, only the choice need be the same.
            numbers = ~np.isnan(right)
            np.testing.assert_allclose(
                tiles[rows][numbers], right[numbers], rtol=2e-5, atol=2e-5
            )
            compared += numbers.sum()
        # Sums in another order may rank blocks of equal scores otherwise.
        wanted.fill(-7)
        choose_blocks(outputs.last[0], wanted, ctx)
        np.testing.assert_array_equal(got, wanted)
    assert compared


def test_buffers_are_taken_as_arrays_are(
    compiled_sparse_kernels: CompiledKernels, tmp_path: Path
) -> None:
    ctx = recorded("quest", tmp_path, "mojo")
    compiled, _ = running("quest", compiled_sparse_kernels)
    set_step(ctx, SIZES[3], 6)
    pool, q = drawn_pool(ctx, 6), drawn((len(SIZES[3]), GROUP, 24))
    wanted, device = np.full(60, -7, np.int32), CPU()
    compiled().forward(q, wanted, pool, ctx)
    buffers = {
        name: Buffer.from_numpy(array.copy()).to(device)
        for name, array in pool.items()
    }
    for name in ("dense_kv_indptr", "dense_kv_indices", "sparse_kv_indptr"):
        setattr(ctx, name, Buffer.from_numpy(getattr(ctx, name)))
    ctx.batch_size = 0
    got = Buffer.from_numpy(np.full((60, 1, 1), -7, np.int32))

    compiled().forward(Buffer.from_numpy(q), got, buffers, ctx)

    assert (wanted != -7).any()
    np.testing.assert_array_equal(got.to_numpy().ravel(), wanted)


def test_the_sweep_has_every_kind() -> None:
    kinds = {case.kind for case in one_of_each_kind()}
    assert kinds == {c.kind for c in (*CASES, *OVER_BLOCKS)}


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return recorded("block_sparse", tmp_path_factory.mktemp("ctx"), "mojo")


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"q": np.zeros((6, GROUP, 24), np.float16)}, "wanted q of float32"),
        ({"q": np.zeros((6, 2, 24), np.float32)}, r"q float32 \[rows, 3, 24"),
        ({"q": np.zeros((5, GROUP, 24), np.float32)}, "row for each of 6"),
        ({"o": np.zeros(60, np.int64)}, "wanted o of int32, got int64"),
        ({"o": np.zeros(3, np.int32)}, r"o of at least \d+ elements, got 3"),
        ({"centroids": np.zeros((ROWS, 1, 23), np.float32)}, "centroids float"),
        ({"dense_kv_indptr": None}, r"wanted ctx.dense_kv_indptr as an array"),
        ({"dense_kv_indptr": np.array([0, 1], np.int32)}, "at least 7"),
        ({"dense_kv_indices": np.arange(99)}, "dense_kv_indices of int32"),
        ({"dense_kv_indices": np.full(21, 99, np.int32)}, r"in \[0, 48\)"),
        ({"dense_kv_indices": np.full(21, -1, np.int32)}, r"in \[0, 48\)"),
        ({"dense_kv_indices": np.zeros(3, np.int32)}, "ascending from 0 to 3"),
        ({"block_reserved_eos": 0}, "block_reserved_eos of at least 1"),
        ({"sparse_kv_indptr": np.zeros(7, np.int32)}, "sparse_kv_indptr"),
    ],
)
def test_bad_arrays_are_refused(
    ctx: Any,
    changed: dict[str, Any],
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrays = {
        "q": drawn((6, GROUP, 24), 1),
        "o": np.full(int(ctx.sparse_kv_indptr[-1]), -7, np.int32),
        "centroids": drawn((ROWS, 1, 24)),
    }
    for name, value in changed.items():
        if name in arrays:
            arrays[name] = value
        else:
            monkeypatch.setattr(ctx, name, value)
    before = arrays["o"].copy()
    pool = {"centroids": arrays["centroids"]}
    forward = indexer_class("block_sparse")().forward
    with pytest.raises((TypeError, ValueError, AssertionError), match=wanted):
        forward(arrays["q"], arrays["o"], pool, ctx)
    assert (arrays["o"] == before).all()


def test_an_indexer_without_topk_is_refused(tmp_path: Path) -> None:
    ctx = indexer_context(tmp_path, "mojo")
    ctx.profile()
    q = ctx.add_tensor((GROUP, 24), "float32", FORMAT.BATCHED, name="q")
    indexer.Mean(dim=1)(q, ctx=ctx)
    ctx.execute()
    with pytest.raises(RuntimeError, match="wanted an indexer that calls topK"):
        compile_context(ctx)
