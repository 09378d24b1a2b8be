"""Calls of every operator of the cache compiler, and steps to run them on."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from kvcache.compiler import cache, indexer
from kvcache.compiler.compiling import compile as compiled
from kvcache.compiler.numpy_backend import sparse_bounds
from kvcache.compiler.vtensor import FORMAT, vTensor

PAGE, BLOCK, HEADS, PAGES = 32, 16, 2, 12
GROUP = 3


@dataclass(frozen=True)
class Case:
    """One call of an operator."""

    kind: str
    given: dict[str, Any]
    tiles: tuple[tuple[int, int], ...]
    sides: tuple[str, ...] = ("cache", "indexer")

    def op(self, side: str) -> Any:
        """A new operator."""
        made = getattr(cache if side == "cache" else indexer, self.kind)
        if self.kind == "Reshape":
            return made(-1, self.given["x2"], self.given["y2"])
        return made(**self.given)

    def __str__(self) -> str:
        """What pytest calls it."""
        given = "-".join(str(each) for each in self.given.values())
        tiles = "-".join(f"{r}x{c}" for r, c in self.tiles)
        return f"{self.kind}-{given}-{tiles}".replace(" ", "")


def _cases() -> list[Case]:
    odd, even = (5, 24), (16, 8)
    reductions = ("Mean", "Max", "Min", "Sum", "L2Norm")
    cases = [
        Case(kind, {"dim": dim}, (tile,))
        for kind in reductions
        for dim in (1, 2)
        for tile in (odd, even)
    ]
    cases += [
        Case(f"{kind}Interleave", {"dim": dim, "k": k}, (tile,))
        for kind in reductions
        for dim, k, tile in ((1, 3, (6, 5)), (2, 2, (3, 8)), (1, 4, even))
    ]
    both = {"alpha": 0.25, "beta": -0.5}
    cases += [
        Case(kind, given, (odd,))
        for kind in ("Relu", "Silu", "Sigmoid", "Add_Mul", "Abs", "Exp")
        for given in ({"alpha": 0.0, "beta": 0.0}, both)
    ]
    cases.append(Case("Log", {"alpha": 9.0, "beta": 1.0}, (odd,)))
    pairs = ((odd, odd), ((1, 24), (5, 1)), ((5, 24), (1, 24)))
    wheres = ("Equal", "NotEqual", "Greater", "GreaterEqual", "Less")
    kinds = ("Maximum", "Minimum", "Multiply", "WhereLessEqual")
    cases += [
        Case(kind, {}, tiles)
        for kind in (*kinds, *(f"Where{each}" for each in wheres))
        for tiles in pairs
    ]
    cases += [Case("Add", {"alpha": 0.5, "beta": -2.0}, t) for t in pairs]
    cases += [
        Case("GeMM", {}, (x, y))
        for x, y in (((3, 24), (5, 24)), ((1, 8), (1, 8)), ((20, 48), (24, 48)))
    ]
    cases.append(Case("GeMV", {}, ((1, 24), (5, 24)), ("indexer",)))
    cases += [
        Case("MaskSlice", {"start": 1, "end": 4, "dim": dim}, (odd,))
        for dim in (1, 2)
    ]
    huge = {"start": 0, "end": 2, "dim": 2, "alpha": -np.inf, "beta": 7.0}
    cases.append(Case("MaskSlice", huge, (odd,)))
    cases += [
        Case("Reshape", {"x2": x2, "y2": y2}, (tile,))
        for x2, y2, tile in ((6, 20, odd), (32, 4, even), (1, 120, odd))
    ]
    cases.append(Case("Transpose", {}, (odd,), ("indexer",)))
    cases += [
        Case("Kron", {"dim": dim}, tiles, ("indexer",))
        for dim, tiles in (
            ((1, 2), ((3, 2), (2, 5))),
            (1, ((3, 4), (2, 4))),
            (2, ((3, 2), (1, 5))),
        )
    ]
    return cases


CASES = _cases()
OVER_BLOCKS = [
    *(
        Case(kind, {"dim": 0}, (tile,))
        for kind in ("Mean", "Max", "Min", "Sum", "L2Norm")
        for tile in ((1, 1), (3, 5))
    ),
    Case("Softmax", {"scale": 0.5}, ((3, 5),)),
    Case("Normalize", {}, ((3, 5),)),
]


def cache_context(
    folder: Any, backend: str, dtype: str = "float32", head_dim: int = 24
) -> cache.Context:
    """A context of the cache side, created."""
    return _created(cache.Context(), folder, backend, dtype, head_dim)


def indexer_context(
    folder: Any, backend: str, dtype: str = "float32", head_dim: int = 24
) -> indexer.Context:
    """A context of the indexer side with the arrays of a step.

    Some request has no block, and some one only; `dense_kv_indices` is longer
    than it need be.
    """
    ctx = _created(indexer.Context(), folder, backend, dtype, head_dim)
    ctx.topk_val = 2
    sizes = [1, 2, 7, 5, 0, 4]
    ctx.batch_size = len(sizes) // HEADS
    ctx.dense_kv_indptr = np.cumsum([0, *sizes]).astype(np.int32)
    order = np.random.default_rng(3).permutation(PAGES * PAGE // BLOCK)
    ctx.dense_kv_indices = order[: sum(sizes) + 2].astype(np.int32)
    ctx.sparse_kv_indptr = sparse_bounds(ctx).astype(np.int32)
    return ctx


def _created(
    ctx: Any, folder: Any, backend: str, dtype: str, head_dim: int
) -> Any:
    parent = SimpleNamespace(
        page_size=PAGE,
        block_size=BLOCK,
        num_pages=PAGES,
        head_num=HEADS,
        head_dim=head_dim,
        group_size=GROUP,
    )
    settings = SimpleNamespace(
        max_prefill_tokens=100,
        vortex_dtype=dtype,
        vortex_compilation_cache_dir=folder,
    )
    pool = SimpleNamespace(size=4)
    runner = SimpleNamespace(server_args=settings, req_to_token_pool=pool)
    ctx.create(parent, runner)
    ctx.impl_backend = backend
    return ctx


def fields_for(
    ctx: Any, tiles: tuple[tuple[int, int], ...], dtype: str = "float32"
) -> list[vTensor]:
    """Fields `f0`, `f1`, ... of a context that records nothing yet."""
    ctx.profile()
    return [
        ctx.add_tensor(tile, dtype, FORMAT.PAGED, name=f"cache['f{i}']")
        for i, tile in enumerate(tiles)
    ]


def drawn(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Float32 numbers, some of them equal."""
    numbers = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return np.round(numbers * 2, 1).astype(np.float32) / 2


def drawn_fields(tiles: tuple[tuple[int, int], ...]) -> dict[str, np.ndarray]:
    """A pool of fields `f0`, `f1`, ..."""
    blocks = PAGES * PAGE // BLOCK
    return {f"f{i}": drawn((blocks, *tile), i) for i, tile in enumerate(tiles)}


def recorded_on_cache(case: Case, ctx: Any) -> None:
    """Records a case with its result in the last field."""
    loc = np.empty(0, np.int64)
    shape = case.op("cache").result_tile(*case.tiles)
    *read, made = fields_for(ctx, (*case.tiles, shape))
    case.op("cache")(*read, made, loc=loc, ctx=ctx)
    ctx.execute()


def recorded_on_indexer(case: Case, ctx: Any) -> vTensor:
    """Records a case; returns its result."""
    read = fields_for(ctx, case.tiles)
    ctx.add_tensor((GROUP, 24), "float32", FORMAT.BATCHED, name="q")
    made: vTensor = case.op("indexer")(*read, ctx=ctx)
    ctx.execute()
    return made


def runner(ctx: Any) -> Any:
    """An instance of the compiled class."""
    return compiled(ctx)()


def recorded_mixture(ctx: Any) -> None:
    """Records `choose_by_mixture` of a field `f0` alone."""
    (field,) = fields_for(ctx, ((1, 24),))
    choose_by_mixture(field, ctx)
    ctx.execute()


def choose_by_mixture(field: vTensor, ctx: Any) -> None:
    """Calls operators of an indexer that goes back and forth between its rows.

    Tensors of requests and of blocks are made in turns, before and behind
    operators that look at all blocks; one has the same tile for all blocks.
    """
    q = ctx.add_tensor((GROUP, 24), "float32", FORMAT.BATCHED, name="q")
    o = ctx.add_tensor((1, 1), "int32", FORMAT.RAGGED, name="o")
    half = indexer.MaskSlice(0, 12, dim=2, beta=0.5)(field, ctx=ctx)
    counts = indexer.Sum(dim=0)(half, ctx=ctx)
    mean = indexer.Mean(dim=1)(q, ctx=ctx)
    plain = indexer.GeMV()(mean, field, ctx=ctx)
    typical = indexer.Mean(dim=0)(plain, ctx=ctx)
    gate = indexer.WhereGreater()(plain, typical, ctx=ctx)
    weighted = indexer.Multiply()(mean, counts, ctx=ctx)
    score = indexer.GeMV()(weighted, field, ctx=ctx)
    indexer.topK()(indexer.Add()(score, gate, ctx=ctx), o, ctx=ctx)


def mixture(q: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The scores `[S]` of `recorded_mixture`, for queries `[group, 24]`."""
    mean, blocks = q.mean(axis=0), field[:, 0]
    weights = len(blocks) * np.where(np.arange(24) < 12, 1.0, 0.5)
    plain = blocks @ mean
    gate = np.where(plain > plain.mean(), 0.0, -np.inf)
    return blocks @ (mean * weights) + gate
