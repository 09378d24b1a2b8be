"""Flows in which every operator of both sides has a part."""

from collections.abc import Mapping
from typing import Any

from kvcache.compiler import cache as c
from kvcache.compiler import indexer as i
from kvcache.compiler.flow import vFlow
from kvcache.compiler.vtensor import vTensor

REDUCTIONS = ("Mean", "Max", "Min", "L2Norm", "Sum")
WHERE = ("Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual")
CONSTANTS = {
    "Relu": (0.1, -0.5),
    "Silu": (0.2, -1.0),
    "Sigmoid": (0.1, -0.7),
    "Add_Mul": (0.3, 1.5),
    "Abs": (0.1, -2.0),
    "Log": (9.0, 1.1),
    "Exp": (0.1, 0.4),
}


class EveryOperator(vFlow):
    """A field for every operator of the cache side, a term for every other."""

    def create_cache(
        self, block_size: int, head_dim: int
    ) -> dict[str, tuple[int, int]]:
        """Declares a field for each operator."""
        fields = {}
        for name in REDUCTIONS:
            fields[f"{name}_1"] = (1, head_dim)
            fields[f"{name}_2"] = (block_size, 1)
            fields[f"{name}_groups_1"] = (block_size // 4, head_dim)
            fields[f"{name}_groups_2"] = (block_size, head_dim // 4)
        for name in (*CONSTANTS, "Maximum", "Minimum", "Multiply", "Add"):
            fields[name] = (1, head_dim)
        for name in WHERE:
            fields[name] = (block_size, 1)
        return fields | {
            "products": (block_size, block_size),
            "product": (block_size, 1),
            "mask_1": (1, head_dim),
            "mask_2": (block_size, head_dim),
            "narrow": (block_size * 2, head_dim // 2),
            "row": (1, block_size),
            "flat": (head_dim // 2, 2),
            "filled": (3, 5),
            "again": (1, head_dim),
            "score": (1, 1),
        }

    def forward_cache(
        self, cache: Mapping[str, vTensor], loc: Any, ctx: Any
    ) -> None:
        """Makes each field by its operator."""
        call = {"loc": loc, "ctx": ctx}
        k, v = cache["k"], cache["v"]
        self._reduce(cache, call)
        for name, constants in CONSTANTS.items():
            changed = getattr(c, name)(*constants)(k, **call)
            c.Mean(dim=1)(changed, cache[name], **call)
        mean = cache["Mean_1"]
        for name, op in {
            "Maximum": c.Maximum(),
            "Minimum": c.Minimum(),
            "Multiply": c.Multiply(),
            "Add": c.Add(alpha=0.5, beta=-2.0),
        }.items():
            c.Sum(dim=1)(op(k, mean, **call), cache[name], **call)
        self._compare(cache, call)
        c.GeMM()(k, v, cache["products"], **call)
        c.GeMM()(mean, k, cache["product"], **call)
        self._move(cache, call)
        c.Fill(alpha=2.5)(cache["filled"], **call)
        c.Add_Mul(1.0, 2.0)(cache["Maximum"], cache["again"], **call)
        every = c.Sum(dim=2)(mean, **call)
        c.Sigmoid(0.0, -0.1)(every, cache["score"], **call)

    def _reduce(
        self, cache: Mapping[str, vTensor], call: dict[str, Any]
    ) -> None:
        for name in REDUCTIONS:
            for dim in (1, 2):
                x = cache["k" if dim == 1 else "v"]
                reduce = getattr(c, name)(dim=dim)
                reduce(x, cache[f"{name}_{dim}"], **call)
                groups = getattr(c, f"{name}Interleave")(dim=dim, k=4)
                groups(x, cache[f"{name}_groups_{dim}"], **call)

    def _compare(
        self, cache: Mapping[str, vTensor], call: dict[str, Any]
    ) -> None:
        """Counts where a comparison holds; of equal ones there are many."""
        larger = c.Maximum()(cache["k"], cache["v"], **call)
        for name in WHERE:
            mask = getattr(c, f"Where{name}")()(larger, cache["k"], **call)
            ones = c.Exp()(mask, **call)
            c.Mean(dim=2)(ones, cache[name], **call)

    def _move(self, cache: Mapping[str, vTensor], call: dict[str, Any]) -> None:
        k = cache["k"]
        rows, columns = k.tile
        first = c.MaskSlice(1, rows // 2, 1, alpha=2.0, beta=-1.0)(k, **call)
        weighted = c.Multiply()(first, k, **call)
        c.Mean(dim=1)(weighted, cache["mask_1"], **call)
        c.MaskSlice(3, columns - 1, 2, alpha=0.5)(k, cache["mask_2"], **call)
        c.Reshape(-1, rows * 2, columns // 2)(k, cache["narrow"], **call)
        c.Reshape(-1, 1, rows)(cache["Max_2"], cache["row"], **call)
        c.Reshape(-1, columns // 2, 2)(cache["Mean_1"], cache["flat"], **call)

    def forward_indexer(
        self, q: vTensor, o: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> None:
        """Adds a term of every operator up to a score."""
        terms = [
            *self._products(q, cache, ctx),
            *self._places(q, cache, ctx),
            *self._elements(q, cache, ctx),
            *self._over_blocks(q, cache, ctx),
        ]
        score = terms[0]
        for n, term in enumerate(terms[1:]):
            score = i.Add(beta=0.5 + n / 16)(score, term, ctx=ctx)
        i.topK()(score, o, ctx=ctx)

    def _one(self, x: vTensor, ctx: Any) -> vTensor:
        """A number of a tile, in which every place counts differently."""
        by_columns = i.MaskSlice(
            0, (x.tile[1] + 1) // 2, 2, alpha=0.3, beta=-0.2
        )(x, ctx=ctx)
        by_rows = i.MaskSlice(0, (x.tile[0] + 1) // 2, 1, alpha=0.25, beta=0.1)(
            x, ctx=ctx
        )
        x = i.Multiply()(x, by_columns, ctx=ctx)
        x = i.Multiply()(x, by_rows, ctx=ctx)
        return i.Mean(dim=2)(i.Sum(dim=1)(x, ctx=ctx), ctx=ctx)

    def _products(
        self, q: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> list[vTensor]:
        mean = i.Mean(dim=1)(q, ctx=ctx)
        by_keys = i.GeMM()(q, cache["k"], ctx=ctx)
        return [
            i.Max(dim=2)(i.GeMM()(q, cache["Mean_1"], ctx=ctx), ctx=ctx),
            i.GeMV()(mean, cache["Max_1"], ctx=ctx),
            self._one(by_keys, ctx),
            i.Min(dim=1)(i.Max(dim=2)(by_keys, ctx=ctx), ctx=ctx),
        ]

    def _places(
        self, q: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> list[vTensor]:
        groups = cache["Mean_groups_1"]
        flat, narrow = cache["flat"], cache["filled"]
        heads = i.Mean(dim=2)(q, ctx=ctx)
        turned = i.Transpose()(groups, ctx=ctx)
        again = i.Reshape(-1, *groups.tile)(turned, ctx=ctx)
        return [
            self._one(i.Kron()(narrow, flat, ctx=ctx), ctx),
            self._one(i.Kron(dim=1)(groups, q, ctx=ctx), ctx),
            self._one(i.Kron(dim=2)(heads, cache["Max_1"], ctx=ctx), ctx),
            self._one(i.Multiply()(again, groups, ctx=ctx), ctx),
            self._one(i.GeMM()(again, groups, ctx=ctx), ctx),
            self._one(i.MeanInterleave(dim=1, k=2)(groups, ctx=ctx), ctx),
            self._one(i.MaxInterleave(dim=2, k=4)(again, ctx=ctx), ctx),
        ]

    def _elements(
        self, q: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> list[vTensor]:
        x = i.Multiply()(q, cache["Mean_1"], ctx=ctx)
        inside = i.Minimum()(x, cache["score"], ctx=ctx)
        changed = i.Abs()(inside, ctx=ctx)
        for n, (name, constants) in enumerate(CONSTANTS.items()):
            operand = changed if name == "Log" else inside
            term = getattr(i, name)(*constants)(operand, ctx=ctx)
            changed = i.Add(beta=0.5 + n / 8)(changed, term, ctx=ctx)
        larger = i.Maximum()(x, cache["Max_1"], ctx=ctx)
        for n, name in enumerate(WHERE):
            mask = getattr(i, f"Where{name}")()(larger, x, ctx=ctx)
            ones = i.Exp()(mask, ctx=ctx)
            changed = i.Add(beta=0.5 + n / 8)(changed, ones, ctx=ctx)
        norm = i.L2Norm(dim=1)(x, ctx=ctx)
        return [self._one(changed, ctx), self._one(norm, ctx)]

    def _over_blocks(
        self, q: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> list[vTensor]:
        products = i.GeMM()(q, cache["Min_1"], ctx=ctx)
        terms = []
        for name in REDUCTIONS:
            over = getattr(i, name)(dim=0)(products, ctx=ctx)
            apart = i.Add(beta=-0.5)(products, over, ctx=ctx)
            terms.append(i.Sum(dim=2)(apart, ctx=ctx))
        every = i.Max(dim=0)(cache["row"], ctx=ctx)
        terms.append(
            i.Max(dim=2)(i.Multiply()(cache["row"], every, ctx=ctx), ctx=ctx)
        )
        sizes = i.Abs(0.1)(products, ctx=ctx)
        i.Normalize()(sizes, ctx=ctx)
        shares = i.Softmax(scale=0.3)(products, ctx=ctx)
        terms.append(self._one(sizes, ctx))
        terms.append(self._one(shares, ctx))
        return terms
