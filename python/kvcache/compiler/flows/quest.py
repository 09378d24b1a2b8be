"""Blocks by a bound on the products of their keys and a query."""

from collections.abc import Mapping
from typing import Any

from kvcache.compiler import cache as cache_ops
from kvcache.compiler import indexer
from kvcache.compiler.flow import vFlow
from kvcache.compiler.registry import register
from kvcache.compiler.vtensor import vTensor


@register("quest", "gqa_quest_sparse_attention")
class GQAQuestSparseAttention(vFlow):
    """Keeps the largest and the smallest key of each channel and block.

    Two fields of `(1, head_dim)`. With them no key of a block has a larger
    product with a query than the sum of its larger products by channel; a
    block's score is the largest of these bounds over the group's queries.

    References:
        [Quest](https://arxiv.org/abs/2406.10774).
    """

    def __init__(self) -> None:
        """Makes the operators."""
        super().__init__()
        self.largest_key = cache_ops.Max(dim=1)
        self.smallest_key = cache_ops.Min(dim=1)
        self.by_largest = indexer.Multiply()
        self.by_smallest = indexer.Multiply()
        self.larger = indexer.Maximum()
        self.bound = indexer.Sum(dim=2)
        self.over_queries = indexer.Max(dim=1)
        self.choose = indexer.topK()

    def create_cache(
        self,
        block_size: int,  # noqa: ARG002  (the seed's)
        head_dim: int,
    ) -> dict[str, tuple[int, int]]:
        """Declares both ends of the keys' range."""
        return {"max": (1, head_dim), "min": (1, head_dim)}

    def forward_cache(
        self, cache: Mapping[str, vTensor], loc: Any, ctx: Any
    ) -> None:
        """Takes the range of a block's keys by channel."""
        self.largest_key(cache["k"], cache["max"], loc=loc, ctx=ctx)
        self.smallest_key(cache["k"], cache["min"], loc=loc, ctx=ctx)

    def forward_indexer(
        self, q: vTensor, o: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> None:
        """Bounds each query's products, and takes the largest bound."""
        upper = self.by_largest(q, cache["max"], ctx=ctx)
        lower = self.by_smallest(q, cache["min"], ctx=ctx)
        larger = self.larger(upper, lower, ctx=ctx)
        bounds = self.bound(larger, ctx=ctx)
        score = self.over_queries(bounds, ctx=ctx)
        self.choose(score, o, ctx=ctx)
