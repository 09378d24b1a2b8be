"""Generated Triton kernels compute what generated NumPy code does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("wanted torch with CUDA", allow_module_level=True)

from compiler_cases import (  # noqa: E402
    BLOCK,
    CASES,
    GROUP,
    HEADS,
    OVER_BLOCKS,
    PAGE,
    PAGES,
    Case,
    cache_context,
    drawn,
    drawn_fields,
    fields_for,
    indexer_context,
    recorded_mixture,
    recorded_on_cache,
    recorded_on_indexer,
    runner,
)
from kvcache.compiler import cache, indexer  # noqa: E402
from kvcache.compiler.numpy_backend import sparse_bounds  # noqa: E402
from kvcache.compiler.recording import (  # noqa: E402
    record_cache,
    record_indexer,
)
from kvcache.compiler.registry import flow_class, flow_names  # noqa: E402

LOC = np.array([31, 5, 47, 14, 15, 32 * 5 + 31])
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
STEP = (
    "dense_kv_indptr",
    "dense_kv_indices",
    "sparse_kv_indptr",
)


def there(array: np.ndarray) -> Any:
    return torch.from_numpy(array.copy()).cuda()


def all_there(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: there(array) for name, array in arrays.items()}


def on_gpu(ctx: Any) -> Any:
    """Has the context's pipeline and step on the GPU from now on."""
    ctx.impl_backend = "triton"
    for name in STEP:
        if hasattr(ctx, name):
            setattr(ctx, name, there(np.asarray(getattr(ctx, name))))
    return ctx


def equal(got: Any, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(got.cpu().numpy(), wanted, **TOLERANCE)


@pytest.mark.parametrize(
    "case", [c for c in CASES if "cache" in c.sides], ids=str
)
def test_operator_of_the_cache_side(case: Case, tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "numpy")
    recorded_on_cache(case, ctx)
    tiles = (*case.tiles, ctx.tensor_list[len(case.tiles)].tile)
    here = drawn_fields(tiles)
    pool = all_there(here)
    runner(ctx).forward(here, LOC, ctx)
    runner(on_gpu(ctx)).forward(pool, there(LOC), ctx)
    for name, field in here.items():
        equal(pool[name], field)


@pytest.mark.parametrize(
    "case", [c for c in CASES if "indexer" in c.sides], ids=str
)
def test_operator_of_the_indexer(case: Case, tmp_path: Path) -> None:
    ctx = indexer_context(tmp_path, "numpy")
    made = recorded_on_indexer(case, ctx)
    compare_on_indexer(case, ctx, made)


@pytest.mark.parametrize("case", OVER_BLOCKS, ids=str)
def test_operator_over_the_blocks_of_a_request(
    case: Case, tmp_path: Path
) -> None:
    ctx = indexer_context(tmp_path, "numpy")
    (field,) = fields_for(ctx, case.tiles)
    copy = indexer.Add_Mul(alpha=3.0)(field, ctx=ctx)
    made = case.op("indexer")(copy, ctx=ctx)
    ctx.execute()
    compare_on_indexer(case, ctx, made)


@pytest.mark.parametrize("kind", ["Mean", "Max"])
def test_fields_are_reduced_over_blocks_where_they_are(
    kind: str, tmp_path: Path
) -> None:
    case = Case(kind, {"dim": 0}, ((3, 5),))
    ctx = indexer_context(tmp_path, "numpy")
    made = recorded_on_indexer(case, ctx)
    compare_on_indexer(case, ctx, made)


def compare_on_indexer(case: Case, ctx: Any, made: Any) -> None:
    name, bounds = f"tensor_{made.tensor_id}", ctx.dense_kv_indptr
    here, q = drawn_fields(case.tiles), drawn((6, GROUP, 24))
    pool = all_there(here)
    one = runner(ctx)
    one.forward(q, None, here, ctx)
    other = runner(on_gpu(ctx))
    other.forward(there(q), None, pool, ctx)
    got, wanted = getattr(other, name), getattr(one, name)
    is_batched = made._format.name == "BATCHED"
    scored = [
        row
        for i in range(len(bounds) - 1)
        for row in range(bounds[i], bounds[i + 1] - 1)
    ]
    if is_batched:
        scored = [i for i, n in enumerate(np.diff(bounds)) if n > 1]
    equal(got[scored], wanted[scored])


def test_fill_needs_no_operand(tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "triton")
    (field,) = fields_for(ctx, ((3, 5),))
    cache.Fill(alpha=2.5)(field, loc=np.empty(0, np.int64), ctx=ctx)
    pool = all_there(drawn_fields(((3, 5),)))
    wanted = pool["f0"].clone()
    wanted[[0, 2]] = 2.5
    runner(ctx).forward(pool, there(np.array([15, 40])), ctx)
    assert torch.equal(pool["f0"], wanted)


@pytest.mark.parametrize(
    "dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16"]
)
@pytest.mark.parametrize("as_bits", [False, True])
def test_stores_are_rounded_and_clamped(
    dtype: str, as_bits: bool, tmp_path: Path
) -> None:
    if as_bits and dtype in {"bfloat16", "float16"}:
        pytest.skip("their bits are no type of torch's")
    ctx = cache_context(tmp_path, "triton")
    x, out = fields_for(ctx, ((1, 5), (1, 5)), dtype)
    cache.Add_Mul(beta=3.0)(x, out, loc=np.empty(0, np.int64), ctx=ctx)
    typed = getattr(torch, dtype)
    most = torch.finfo(typed).max
    tile = torch.tensor([[1.0, -0.3, most * 0.9, -most * 0.9, 0.07]])
    first = torch.stack([tile] * 24).to(typed).cuda()
    second = torch.zeros_like(first)
    pool = {"f0": first, "f1": second}
    if as_bits:
        pool = {name: f.view(torch.uint8) for name, f in pool.items()}
    runner(ctx).forward(pool, there(np.array([15])), ctx)
    wanted = first[0].float() * 3
    if "float8" in dtype:
        wanted = wanted.clamp(-most, most)
    assert torch.equal(second[0].float(), wanted.to(typed).float())
    assert not second[1].float().any()


@pytest.mark.parametrize("fusion", ["", "1"])
@pytest.mark.parametrize("head_dim", [24, 64])
@pytest.mark.parametrize("name", flow_names())
def test_shipped_flow_from_keys_to_blocks(
    name: str,
    head_dim: int,
    fusion: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KVCACHE_DISABLE_FUSION", fusion)
    sides = [
        cache_context(tmp_path, "numpy", head_dim=head_dim),
        indexer_context(tmp_path, "numpy", head_dim=head_dim),
    ]
    make, choose = flow_class(name)(), flow_class(name)()
    record_cache(make, sides[0])
    record_indexer(choose, sides[1])
    sides[1].sparse_kv_indptr = sparse_bounds(sides[1])
    blocks = PAGES * PAGE // BLOCK * HEADS
    here = {
        field: drawn((blocks, *tile), 5)
        for field, (tile, _) in make.cache_meta_info.items()
    }
    pool = all_there(here)
    slots = np.arange(PAGES * PAGE)
    q = drawn((6, GROUP, head_dim), 8)
    o = np.full((64, 1, 1), -1, np.int32)
    chosen = there(o)
    runner(sides[0]).forward(here, slots, sides[0])
    runner(sides[1]).forward(q, o, here, sides[1])
    for ctx in sides:
        on_gpu(ctx)
    runner(sides[0]).forward(pool, there(slots), sides[0])
    runner(sides[1]).forward(there(q), chosen, pool, sides[1])
    for field, wanted in here.items():
        equal(pool[field], wanted)
    assert np.array_equal(chosen.cpu().numpy(), o)


@pytest.mark.parametrize("fusion", ["", "1"])
def test_rows_of_requests_and_blocks_in_turns(
    fusion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCACHE_DISABLE_FUSION", fusion)
    ctx = indexer_context(tmp_path, "numpy")
    recorded_mixture(ctx)
    here, q = drawn_fields(((1, 24),)), drawn((6, GROUP, 24))
    wanted = np.full(64, -1)
    runner(ctx).forward(q, wanted, here, ctx)
    got, pool = there(np.full(64, -1)), all_there(here)
    runner(on_gpu(ctx)).forward(there(q), got, pool, ctx)
    assert np.array_equal(got.cpu().numpy(), wanted)


def test_loc_is_int64_of_one_axis(tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "triton")
    recorded_on_cache(CASES[0], ctx)
    loc = torch.zeros(2, dtype=torch.int32, device="cuda")
    pool = all_there(drawn_fields(((5, 24), (1, 24))))
    with pytest.raises(AssertionError, match="wanted loc of int64"):
        runner(ctx).forward(pool, loc, ctx)


@pytest.mark.parametrize("seed", range(5))
def test_ties_and_numbers_that_are_none_are_chosen_alike(
    seed: int, tmp_path: Path
) -> None:
    from kvcache.compiler.numpy_backend import choose_blocks as slow
    from kvcache.compiler.triton_backend.choice import choose_blocks as fast

    ctx = indexer_context(tmp_path, "numpy")
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 40, 6)
    ctx.dense_kv_indptr = np.cumsum([0, *sizes])
    ctx.dense_kv_indices = random.permutation(int(sizes.sum()) + 3)
    ctx.topk_val, ctx.topk_ratio = int(random.integers(5)), random.random()
    ctx.sparse_kv_indptr = sparse_bounds(ctx)
    scores = random.choice(
        np.array([0, 1, 2, np.nan, np.inf, -np.inf], np.float32),
        (len(ctx.dense_kv_indices), 1, 1),
    )
    wanted = np.full(300, -1)
    slow(scores, wanted, ctx)
    got = there(np.full(300, -1))
    given = there(scores)
    on_gpu(ctx)
    fast(given, got, ctx)
    assert np.array_equal(got.cpu().numpy(), wanted)


def test_a_captured_step_takes_new_queries(tmp_path: Path) -> None:
    ctx = indexer_context(tmp_path, "numpy")
    flow = flow_class("quest")()
    record_indexer(flow, ctx)
    ctx.sparse_kv_indptr = sparse_bounds(ctx)
    here = {
        field: drawn((PAGES * PAGE // BLOCK, *tile), 5)
        for field, (tile, _) in flow.cache_meta_info.items()
    }
    first, second = drawn((6, GROUP, 24), 1), -drawn((6, GROUP, 24), 2)
    wanted = np.full(64, -1, np.int32)
    runner(ctx).forward(second, wanted, here, ctx)
    pool, q, o = all_there(here), there(first), there(np.full(64, -1, np.int32))
    instance = runner(on_gpu(ctx))
    instance.forward(q, o, pool, ctx)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        instance.forward(q, o, pool, ctx)
    q.copy_(there(second))
    graph.replay()
    torch.cuda.synchronize()
    assert np.array_equal(o.cpu().numpy(), wanted)
