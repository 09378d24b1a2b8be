"""Generated NumPy code computes what operators mean."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from compiler_cases import (
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
    mixture,
    recorded_mixture,
    recorded_on_cache,
    recorded_on_indexer,
    runner,
)
from kvcache.compiler import cache, indexer
from kvcache.compiler.graph import program_of
from kvcache.compiler.numpy_backend import (
    chosen_places,
    run_cache,
    score_blocks,
    sparse_bounds,
)
from kvcache.compiler.numpy_backend.expressions import kinds
from kvcache.compiler.recording import record_cache, record_indexer
from kvcache.compiler.registry import flow_class, flow_names
from tile_loops import looped, over_blocks

LOC = np.array([31, 5, 47, 14, 15, 32 * 5 + 31])
COMPLETED = {0: (0, 1), 2: (1, 0), 4: (0, 0), 5: (5, 1)}
"""For tokens of `LOC` that complete a block its page and place in it."""
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


def pool_row(page: int, head: int, place: int) -> int:
    return (page * HEADS + head) * (PAGE // BLOCK) + place


@pytest.mark.parametrize(
    "case", [c for c in CASES if "cache" in c.sides], ids=str
)
def test_operator_of_the_cache_side(case: Case, tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "numpy")
    recorded_on_cache(case, ctx)
    out = len(case.tiles)
    tiles = (*case.tiles, ctx.tensor_list[out].tile)
    pool = drawn_fields(tiles)
    before = {name: field.copy() for name, field in pool.items()}
    runner(ctx).forward(pool, LOC, ctx)
    written = set()
    for page, place in COMPLETED.values():
        for head in range(HEADS):
            row = pool_row(page, head, place)
            given = [before[f"f{i}"][row] for i in range(out)]
            wanted = looped(case.kind, case.given, *given)
            np.testing.assert_allclose(
                pool[f"f{out}"][row], wanted, **TOLERANCE
            )
            written.add(row)
    for name, field in before.items():
        kept = [
            row
            for row in range(len(field))
            if name != f"f{out}" or row not in written
        ]
        assert np.array_equal(pool[name][kept], field[kept])


@pytest.mark.parametrize(
    "case", [c for c in CASES if "indexer" in c.sides], ids=str
)
def test_operator_of_the_indexer(case: Case, tmp_path: Path) -> None:
    ctx = indexer_context(tmp_path, "numpy")
    made = recorded_on_indexer(case, ctx)
    pool = drawn_fields(case.tiles)
    instance = runner(ctx)
    instance.forward(drawn((6, GROUP, 24)), None, pool, ctx)
    result = getattr(instance, f"tensor_{made.tensor_id}")
    for row in range(6):
        start, end = ctx.dense_kv_indptr[row : row + 2]
        for block in range(start, end - 1):
            physical = ctx.dense_kv_indices[block]
            given = [pool[f"f{i}"][physical] for i in range(len(case.tiles))]
            wanted = looped(case.kind, case.given, *given)
            np.testing.assert_allclose(result[block], wanted, **TOLERANCE)


@pytest.mark.parametrize("case", OVER_BLOCKS, ids=str)
def test_operator_over_the_blocks_of_a_request(
    case: Case, tmp_path: Path
) -> None:
    """A field is copied first: Softmax takes what was computed only."""
    ctx = indexer_context(tmp_path, "numpy")
    (field,) = fields_for(ctx, case.tiles)
    copy = indexer.Add_Mul(alpha=3.0)(field, ctx=ctx)
    made = case.op("indexer")(copy, ctx=ctx)
    ctx.execute()
    pool = drawn_fields(case.tiles)
    instance = runner(ctx)
    instance.forward(drawn((6, GROUP, 24)), None, pool, ctx)
    result = getattr(instance, f"tensor_{made.tensor_id}")
    for row in range(6):
        start, end = ctx.dense_kv_indptr[row : row + 2]
        if end - start < 2:
            continue
        blocks = pool["f0"][ctx.dense_kv_indices[start : end - 1]] + 3.0
        wanted = over_blocks(case.kind, case.given, blocks)
        got = result[start : end - 1] if len(wanted) > 1 else result[row]
        if made._format.name == "RAGGED":
            got = result[start : end - 1]
        np.testing.assert_allclose(
            got, wanted if got.ndim == 3 else wanted[0], **TOLERANCE
        )


def test_every_operator_is_tested() -> None:
    tested = {case.kind for case in (*CASES, *OVER_BLOCKS)}
    assert tested | {"Fill"} == set(kinds())
    public = {*cache.__all__, *indexer.__all__}
    assert public - {"Context", "ctx", "get_ctx", "topK"} == set(kinds())


def test_fill_needs_no_operand(tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "numpy")
    (field,) = fields_for(ctx, ((3, 5),))
    cache.Fill(alpha=2.5)(field, loc=np.empty(0, np.int64), ctx=ctx)
    pool = drawn_fields(((3, 5),))
    before = pool["f0"].copy()
    runner(ctx).forward(pool, np.array([15, 40]), ctx)
    rows = [pool_row(0, head, 0) for head in range(HEADS)]
    before[rows] = 2.5
    assert np.array_equal(pool["f0"], before)


def test_a_block_of_which_a_token_is_missing_is_left_alone(
    tmp_path: Path,
) -> None:
    ctx = cache_context(tmp_path, "numpy")
    flow = flow_class("quest")()
    record_cache(flow, ctx)
    shapes = {name: tile for name, (tile, _) in flow.cache_meta_info.items()}
    blocks = PAGES * PAGE // BLOCK
    pool = {n: drawn((blocks * HEADS, *t)) for n, t in shapes.items()}
    before = {name: field.copy() for name, field in pool.items()}
    instance = runner(ctx)
    instance.forward(pool, np.arange(32, 47), ctx)
    assert all(np.array_equal(pool[n], before[n]) for n in pool)
    instance.forward(pool, np.array([47]), ctx)
    changed = {
        int(row)
        for name in set(shapes) - {"k", "v"}
        for row in np.flatnonzero((pool[name] != before[name]).any((1, 2)))
    }
    assert changed == {pool_row(1, head, 0) for head in range(HEADS)}


@pytest.mark.parametrize("loc", [np.zeros(2, np.int32), np.zeros((1, 2), int)])
def test_loc_is_int64_of_one_axis(loc: Any, tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "numpy")
    recorded_on_cache(CASES[0], ctx)
    with pytest.raises(AssertionError, match="wanted loc of int64"):
        runner(ctx).forward(drawn_fields(((5, 24), (1, 24))), loc, ctx)


@pytest.mark.parametrize(
    ("dtype", "most"),
    [("float8_e4m3fn", 448), ("float8_e5m2", 57344), ("bfloat16", 1e38)],
)
@pytest.mark.parametrize("as_bits", [False, True])
def test_stores_are_rounded_and_clamped(
    dtype: str, most: float, as_bits: bool, tmp_path: Path
) -> None:
    ctx = cache_context(tmp_path, "numpy")
    x, out = fields_for(ctx, ((1, 4), (1, 4)), dtype)
    cache.Add_Mul(beta=3.0)(x, out, loc=np.empty(0, np.int64), ctx=ctx)
    typed = getattr(ml_dtypes, dtype)
    tile = np.array([[1.0, -0.3, most * 0.9, -most * 0.9]]).astype(typed)
    pool = {"f0": np.stack([tile] * 24), "f1": np.stack([tile] * 24)}
    bits = {1: np.uint8, 2: np.uint16}[typed(0).itemsize]
    given = {n: f.view(bits) if as_bits else f for n, f in pool.items()}
    runner(ctx).forward(given, np.array([15]), ctx)
    wanted = tile.astype(np.float32) * 3
    if "8" in dtype.removeprefix("bfloat16"):
        wanted = wanted.clip(-most, most)
    assert np.array_equal(pool["f1"][0], wanted.astype(typed))


def test_an_array_of_another_type_is_refused(tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "numpy")
    recorded_on_cache(CASES[0], ctx)
    pool = drawn_fields(((5, 24), (1, 24)))
    pool["f0"] = pool["f0"].astype(np.float64)
    with pytest.raises(AssertionError, match="float32, got float64"):
        runner(ctx).forward(pool, LOC, ctx)


@pytest.mark.parametrize("fusion", ["", "1"])
@pytest.mark.parametrize("name", flow_names())
def test_shipped_flow_from_keys_to_blocks(
    name: str, fusion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCACHE_DISABLE_FUSION", fusion)
    make, choose = flow_class(name)(), flow_class(name)()
    cache_ctx = cache_context(tmp_path, "numpy")
    ctx = indexer_context(tmp_path, "numpy")
    record_cache(make, cache_ctx)
    record_indexer(choose, ctx)
    ctx.sparse_kv_indptr = sparse_bounds(ctx)
    shapes = {n: tile for n, (tile, _) in make.cache_meta_info.items()}
    blocks = PAGES * PAGE // BLOCK * HEADS
    pool = {n: drawn((blocks, *tile), 5) for n, tile in shapes.items()}
    every_slot = np.arange(PAGES * PAGE)
    runner(cache_ctx).forward(pool, every_slot, cache_ctx)
    made = run_cache(program_of(cache_ctx), {"k": pool["k"], "v": pool["v"]})
    for field, tiles in made.items():
        np.testing.assert_allclose(pool[field], tiles, **TOLERANCE)
    q = drawn((6, GROUP, 24), 8)
    o = np.full((64, 1, 1), -1, np.int32)
    runner(ctx).forward(q, o, pool, ctx)
    for row in range(6):
        start, end = ctx.dense_kv_indptr[row : row + 2]
        mine = ctx.dense_kv_indices[start:end]
        fields = {n: pool[n][mine[:-1]] for n in shapes}
        scores = score_blocks(program_of(ctx), q[row], fields)
        wanted = (
            mine[chosen_places(scores, len(mine), ctx)] if len(mine) else []
        )
        begin, stop = ctx.sparse_kv_indptr[row : row + 2]
        assert o[begin:stop, 0, 0].tolist() == list(wanted)
    assert (o[ctx.sparse_kv_indptr[-1] :] == -1).all()


def test_counts_that_are_not_the_budgets_are_refused(tmp_path: Path) -> None:
    ctx = indexer_context(tmp_path, "numpy")
    record_indexer(flow_class(flow_names()[0])(), ctx)
    ctx.sparse_kv_indptr = sparse_bounds(ctx) + 1
    pool = {
        ctx.tensor_id_to_tensor_name_map[t.tensor_id][7:-2]: drawn(
            (PAGES * PAGE // BLOCK, *t.tile)
        )
        for t in ctx.tensor_list
        if t._format.name == "PAGED"
    }
    o = np.zeros(64, np.int32)
    with pytest.raises(AssertionError, match="wanted sparse_kv_indptr"):
        runner(ctx).forward(drawn((6, GROUP, 24)), o, pool, ctx)


def quest_by_hand(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Scores of blocks `[S, block_size, D]`, by the paper's definition."""
    scores = []
    for block in k:
        high, low = block.max(axis=0), block.min(axis=0)
        best = [
            sum(max(a * b, a * c) for a, b, c in zip(h, high, low, strict=True))
            for h in q
        ]
        scores.append(max(best))
    return np.array(scores)


def test_quest_is_quest(tmp_path: Path) -> None:
    cache_ctx = cache_context(tmp_path, "numpy")
    ctx = indexer_context(tmp_path, "numpy")
    record_cache(flow_class("quest")(), cache_ctx)
    record_indexer(flow_class("quest")(), ctx)
    k, q = drawn((9, BLOCK, 24)), drawn((GROUP, 24), 1)
    fields = run_cache(program_of(cache_ctx), {"k": k, "v": k})
    scores = score_blocks(program_of(ctx), q, fields)
    np.testing.assert_allclose(scores, quest_by_hand(q, k), **TOLERANCE)


def test_no_complete_block_gives_no_scores(tmp_path: Path) -> None:
    ctx = indexer_context(tmp_path, "numpy")
    flow = flow_class("quest")()
    record_indexer(flow, ctx)
    fields = {
        name: np.zeros((0, *tile), np.float32)
        for name, (tile, _) in flow.cache_meta_info.items()
    }
    q = np.zeros((GROUP, 24), np.float32)
    assert score_blocks(program_of(ctx), q, fields).shape == (0,)


@pytest.mark.parametrize("fusion", ["", "1"])
def test_rows_of_requests_and_blocks_in_turns(
    fusion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCACHE_DISABLE_FUSION", fusion)
    ctx = indexer_context(tmp_path, "numpy")
    recorded_mixture(ctx)
    pool, q = drawn_fields(((1, 24),)), drawn((6, GROUP, 24))
    o = np.full(64, -1)
    runner(ctx).forward(q, o, pool, ctx)
    program = program_of(ctx)
    for row in range(6):
        start, end = ctx.dense_kv_indptr[row : row + 2]
        mine = ctx.dense_kv_indices[start:end]
        if len(mine) < 2:
            continue
        wanted = mixture(q[row], pool["f0"][mine[:-1]])
        fields = {"f0": pool["f0"][mine[:-1]]}
        scores = score_blocks(program, q[row], fields)
        np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)
        begin, stop = ctx.sparse_kv_indptr[row : row + 2]
        places = chosen_places(scores, len(mine), ctx)
        assert o[begin:stop].tolist() == mine[places].tolist()
