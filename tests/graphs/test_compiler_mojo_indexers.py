"""Indexers as classes, on the seed's layout, against NumPy's."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from max.driver import CPU
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, Module

from compiler_cases import (
    BLOCK,
    CASES,
    GROUP,
    HEADS,
    OVER_BLOCKS,
    PAGE,
    PAGES,
    Case,
    drawn,
    indexer_context,
    recorded_mixture,
)
from kvcache.compiler import indexer
from kvcache.compiler.compiling import compile as compile_context
from kvcache.compiler.mojo_backend import segment_classes
from kvcache.compiler.mojo_backend.segment_classes import SegmentIndexer
from kvcache.compiler.numpy_backend import sparse_bounds
from kvcache.compiler.numpy_backend.choice import choose_blocks
from kvcache.compiler.recording import record_indexer
from kvcache.compiler.registry import flow_class, flow_names
from kvcache.compiler.vtensor import FORMAT
from kvcache.mojo_sources import precompiled_package

ROWS = PAGES * PAGE // BLOCK * HEADS
SIZES = ([1, 2, 7, 5, 0, 4], [0, 0], [1, 1], [9, 2, 23, 3], [])
SWEEPS = 3


def one_of_each_kind() -> list[Case]:
    kinds = {
        (case.kind, case.given.get("dim") == 2): case
        for case in (*CASES, *OVER_BLOCKS[::2])
        if "indexer" in case.sides and "dim" in case.given
    }
    others = {case.kind: case for case in CASES if "dim" not in case.given}
    rest = OVER_BLOCKS[-2:]
    return [*kinds.values(), *others.values(), *OVER_BLOCKS[1:10:2], *rest]


def record_sweep(ctx: Any, number: int) -> None:
    """Records every so many operators; their results are for nobody."""
    ctx.profile()
    cases = one_of_each_kind()[number::SWEEPS]
    tiles = sorted({(t, i) for c in cases for i, t in enumerate(c.tiles)})
    fields = {
        key: ctx.add_tensor(
            key[0], "float32", FORMAT.PAGED, name=f"cache['f{n}']"
        )
        for n, key in enumerate(tiles)
    }
    o = ctx.add_tensor((1, 1), "int32", FORMAT.RAGGED, name="o")
    for case in cases:
        read = [fields[t, i] for i, t in enumerate(case.tiles)]
        if case in OVER_BLOCKS:
            read = [indexer.Add_Mul(alpha=3.0, beta=1.0)(*read, ctx=ctx)]
        case.op("indexer")(*read, ctx=ctx)
    score = indexer.Max(dim=2)(fields[tiles[0]], ctx=ctx)
    indexer.topK()(indexer.Sum(dim=1)(score, ctx=ctx), o, ctx=ctx)
    ctx.execute()


def recorded(name: str, folder: Path, backend: str) -> Any:
    ctx = indexer_context(folder, backend)
    if name.startswith("sweep"):
        record_sweep(ctx, int(name.removeprefix("sweep")))
    else:
        record_indexer(flow_class(name)(), ctx)
    return ctx


NAMES = [*flow_names(), *(f"sweep{i}" for i in range(SWEEPS))]


class Outputs:
    """A graph that gives what kernels hand on, and what it gave last."""

    def __init__(self, model: Any) -> None:
        self.model, self.last = model, ()

    def execute(self, *given: Any) -> None:
        self.last = [each.to_numpy() for each in self.model.execute(*given)]


@pytest.fixture(scope="module")
def classes(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[type[SegmentIndexer], Outputs]]:
    """The indexers, compiled together."""
    folder, module, device = tmp_path_factory.mktemp("i"), Module(), CPU()
    reference = DeviceRef.CPU()
    made = {
        name: compile_context(recorded(name, folder, "mojo")) for name in NAMES
    }
    extensions = [precompiled_package()]
    for each in {each.plan: each for each in made.values()}:
        extensions.append(each.extension)
        with Graph(
            each.name,
            input_types=each.inputs(reference),
            custom_extensions=each.extensions,
            module=module,
        ) as graph:
            graph.output(*each.call(graph.inputs, reference))
    models = InferenceSession(devices=[device]).load_all(
        module, custom_extensions=extensions
    )
    outputs = {name: Outputs(model) for name, model in models.items()}
    return {name: (made[name], outputs[made[name].plan.name]) for name in NAMES}


def set_step(ctx: Any, sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    ctx.batch_size = len(sizes) // HEADS
    ctx.dense_kv_indptr = np.cumsum([0, *sizes]).astype(np.int32)
    order = rng.permutation(ROWS)[: sum(sizes) + 2]
    ctx.dense_kv_indices = order.astype(np.int32)
    ctx.topk_val, ctx.block_reserved_bos = int(seed % 4), int(seed % 3)
    ctx.block_reserved_eos, ctx.topk_ratio = 1 + seed % 2, 0.1 * (seed % 8)
    ctx.sparse_kv_indptr = sparse_bounds(ctx).astype(np.int32)


def drawn_pool(ctx: Any, seed: int) -> dict[str, np.ndarray]:
    pool = {
        ctx.tensor_id_to_tensor_name_map[t.tensor_id][7:-2]: drawn(
            (ROWS, *t.tile), seed + i
        )
        for i, t in enumerate(ctx.tensor_list)
        if t._format is FORMAT.PAGED
    }
    for field in pool.values():
        field[seed % 5] = np.nan
        field[3:9] = field[3]
    return pool


def scored_rows(ctx: Any, tensor: int) -> list[int]:
    bounds = ctx.dense_kv_indptr.tolist()
    segments = list(enumerate(pairwise(bounds)))
    if ctx.tensor_list[tensor]._format is FORMAT.BATCHED:
        return [i for i, (begin, end) in segments if end - begin > 1]
    return [x for _, (begin, end) in segments for x in range(begin, end - 1)]


@pytest.mark.parametrize("name", NAMES)
def test_indexer_chooses_what_numpy_chooses(
    name: str,
    classes: dict[str, tuple[type[SegmentIndexer], Outputs]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ctx = recorded(name, tmp_path, "numpy")
    reference = compile_context(ctx)()
    compiled, outputs = classes[name]
    monkeypatch.setattr(segment_classes, "loaded", lambda *_: outputs)
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


def test_the_sweep_has_every_kind() -> None:
    kinds = {case.kind for case in one_of_each_kind()}
    assert kinds == {c.kind for c in (*CASES, *OVER_BLOCKS)}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Any:
    ctx = indexer_context(tmp_path_factory.mktemp("mixture"), "mojo")
    recorded_mixture(ctx)
    return ctx


def given(ctx: Any) -> tuple[Any, Any, dict[str, Any]]:
    o = np.full(int(ctx.sparse_kv_indptr[-1]), -7, np.int32)
    return drawn((6, GROUP, 24), 1), o, {"f0": drawn((ROWS, 1, 24))}


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"q": np.zeros((6, GROUP, 24), np.float16)}, "wanted q of float32"),
        ({"q": np.zeros((6, 2, 24), np.float32)}, r"q float32 \[rows, 3, 24"),
        ({"q": np.zeros((5, GROUP, 24), np.float32)}, "row for each of 6"),
        ({"o": np.zeros(60, np.int64)}, "wanted o of int32, got int64"),
        ({"o": np.zeros(3, np.int32)}, r"o of at least \d+ elements, got 3"),
        ({"f0": np.zeros((ROWS, 1, 23), np.float32)}, "wanted f0 float32"),
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
    mixture: Any,
    changed: dict[str, Any],
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, o, pool = given(mixture)
    for name, value in changed.items():
        if name in {"q", "o"}:
            continue
        if name == "f0":
            pool = {name: value}
        else:
            monkeypatch.setattr(mixture, name, value)
    q, o = changed.get("q", q), changed.get("o", o)
    before = o.copy()
    with pytest.raises((TypeError, ValueError, AssertionError), match=wanted):
        compile_context(mixture)().forward(q, o, pool, mixture)
    assert (o == before).all()


def test_an_indexer_without_topk_is_refused(tmp_path: Path) -> None:
    ctx = indexer_context(tmp_path, "mojo")
    ctx.profile()
    q = ctx.add_tensor((GROUP, 24), "float32", FORMAT.BATCHED, name="q")
    indexer.Mean(dim=1)(q, ctx=ctx)
    ctx.execute()
    with pytest.raises(RuntimeError, match="wanted an indexer that calls topK"):
        compile_context(ctx)


def test_a_graph_is_kept_and_loaded_again(mixture: Any) -> None:
    q, o, pool = given(mixture)
    mixture.impl_backend = "numpy"
    wanted = o.copy()
    compile_context(mixture)().forward(q, wanted, pool, mixture)
    mixture.impl_backend = "mojo"
    compile_context(mixture)().forward(q, o, pool, mixture)
    np.testing.assert_array_equal(o, wanted)
    folder = Path(mixture.compilation_cache_dir)
    assert len(list(folder.rglob("*_cpu_choose.mef"))) == 1
