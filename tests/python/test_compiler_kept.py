"""What a flow keeps between its operators fits a GPU's shared memory."""

from typing import Any

import pytest

from kvcache.compiler import cache, indexer, vFlow
from kvcache.compiler.mojo_backend.flows import flow_programs
from kvcache.compiler.mojo_backend.modules import flow_text


class Products(vFlow):
    """Keeps the products of all keys of a block, and those with all values."""

    def __init__(self) -> None:
        super().__init__()
        self.multiply, self.most = cache.GeMM(), cache.Max(dim=1)
        self.multiply_values, self.least = cache.GeMM(), cache.Min(dim=1)
        self.mean, self.product = cache.Mean(dim=1), indexer.GeMM()
        self.best, self.choose = indexer.Max(dim=2), indexer.topK()

    def create_cache(self, block_size: int, head_dim: int) -> dict[str, Any]:
        row = (1, block_size)
        return {"most": row, "least": row, "mean": (1, head_dim)}

    def forward_cache(self, cache: Any, loc: Any, ctx: Any) -> None:
        products = self.multiply(cache["k"], cache["k"], loc=loc, ctx=ctx)
        self.most(products, cache["most"], loc=loc, ctx=ctx)
        mixed = self.multiply_values(cache["k"], cache["v"], loc=loc, ctx=ctx)
        self.least(mixed, cache["least"], loc=loc, ctx=ctx)
        self.mean(cache["k"], cache["mean"], loc=loc, ctx=ctx)

    def forward_indexer(self, q: Any, o: Any, cache: Any, ctx: Any) -> None:
        scores = self.product(q, cache["mean"], ctx=ctx)
        self.choose(self.best(scores, ctx=ctx), o, ctx=ctx)


def text_for(block_size: int) -> str:
    flow = Products()
    summaries = flow.summaries(block_size, 64, "float32")
    programs = flow_programs(
        flow, block_size=block_size, head_dim=64, group_size=2
    )
    return flow_text(
        programs.cache,
        programs.indexer,
        summaries.fields,
        group_size=2,
        head_dim=64,
    ).text


def test_few_numbers_are_kept_beside_the_keys() -> None:
    assert "store_summarised_gpu(\n" in text_for(16)


def test_more_are_kept_behind_the_last_layer() -> None:
    text = text_for(32)
    assert "store_summarised_gpu(\n" not in text
    assert "follows_store=True" in text


def test_too_many_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="at most 2816 numbers"):
        text_for(64)
