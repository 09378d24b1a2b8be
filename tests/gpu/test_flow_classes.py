"""Both sides of flows as classes, on the seed's layout, on a GPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from max.driver import CPU, Accelerator, Buffer

from compiler_cases import GROUP, drawn
from kernels.indexer_steps import SIZES, drawn_pool, set_step
from kernels.indexers import NAMES, indexer_class, recorded
from kernels.slot_caches import PAGE_SIZE, PAGES, fields, quest_cache, rows_of
from kvcache.compiler.compiling import compile as compile_context
from kvcache.compiler.graph import program_of
from kvcache.compiler.numpy_backend import run_cache

INDICES = ("dense_kv_indptr", "dense_kv_indices", "sparse_kv_indptr")


def on_gpu(array: Any) -> Buffer:
    return Buffer.from_numpy(np.array(array)).to(Accelerator())


@pytest.mark.parametrize("name", NAMES)
def test_indexer_chooses_what_numpy_chooses(name: str, tmp_path: Path) -> None:
    ctx = recorded(name, tmp_path, "numpy")
    reference = compile_context(ctx)()
    compiled = indexer_class(name)()
    score = compiled.module.results[0]
    for seed, sizes in enumerate(SIZES * 3):
        set_step(ctx, sizes, seed)
        pool, q = drawn_pool(ctx, seed), drawn((len(sizes), GROUP, 24), seed)
        pool = {each: np.nan_to_num(array) for each, array in pool.items()}
        wanted = np.full((60, 1, 1), -7, np.int32)
        reference.forward(q, wanted, pool, ctx)
        got = on_gpu(np.full((60, 1, 1), -7, np.int32))
        kept = {each: getattr(ctx, each) for each in INDICES}
        for each, array in kept.items():
            setattr(ctx, each, on_gpu(array))
        compiled.forward(
            on_gpu(q), got, {k: on_gpu(v) for k, v in pool.items()}, ctx
        )
        for each, array in kept.items():
            setattr(ctx, each, array)
        chosen = got.to(CPU()).to_numpy()
        if (chosen != wanted).any():
            check_near_ties(ctx, reference, score, chosen, wanted)


def check_near_ties(
    ctx: Any, reference: Any, score: int, got: Any, wanted: Any
) -> None:
    """Checks that blocks chosen instead of others score as those do.

    Sums in another order may rank blocks of equal scores otherwise.
    """
    scores = getattr(reference, f"tensor_{score}").reshape(-1)
    bounds, ids = ctx.dense_kv_indptr, ctx.dense_kv_indices
    for i, (begin, end) in enumerate(
        zip(ctx.sparse_kv_indptr, ctx.sparse_kv_indptr[1:], strict=False)
    ):
        own = ids[bounds[i] : bounds[i + 1]].tolist()
        pair = [set(x.reshape(-1)[begin:end].tolist()) for x in (got, wanted)]
        assert len(pair[0]) == len(pair[1]) == end - begin
        assert pair[0] <= set(own)
        sides = [
            sorted(scores[bounds[i] + own.index(x)] for x in one - other)
            for one, other in (pair, pair[::-1])
        ]
        np.testing.assert_allclose(sides[0], sides[1], rtol=1e-4, atol=1e-5)


def test_cache_side_makes_what_numpy_makes() -> None:
    ctx = quest_cache(None)
    compiled = compile_context(ctx)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        arrays = fields(rng)
        slots = rng.permutation(PAGES * PAGE_SIZE)[: 1 + 30 * seed]
        made = run_cache(program_of(ctx), arrays)
        rows = rows_of(slots.tolist())
        expected = {name: arrays[name].copy() for name in made}
        for name in made:
            expected[name][rows] = made[name][rows]
        buffers = {name: on_gpu(array) for name, array in arrays.items()}

        compiled().forward(buffers, on_gpu(slots.astype(np.int64)), ctx)

        for name, wanted in expected.items():
            np.testing.assert_array_equal(
                buffers[name].to(CPU()).to_numpy(), wanted
            )
