"""Blocks by the product of their mean key and the mean query."""

from collections.abc import Mapping
from typing import Any

from kvcache.compiler import cache as cache_ops
from kvcache.compiler import indexer
from kvcache.compiler.flow import vFlow
from kvcache.compiler.registry import register
from kvcache.compiler.vtensor import vTensor


@register("block_sparse", "block_sparse_attention")
class BlockSparseAttention(vFlow):
    """Keeps the centroid of each block's keys, `(1, head_dim)`.

    A block's score is the centroid times the mean of the group's queries.

    References:
        [Kinetics](https://arxiv.org/abs/2506.05333), for choosing blocks by
        their centroids.
    """

    def __init__(self) -> None:
        """Makes the operators."""
        super().__init__()
        self.centroid = cache_ops.Mean(dim=1)
        self.query = indexer.Mean(dim=1)
        self.score = indexer.GeMV()
        self.choose = indexer.topK()

    def create_cache(
        self,
        block_size: int,  # noqa: ARG002  (the seed's)
        head_dim: int,
    ) -> dict[str, tuple[int, int]]:
        """Declares the centroids."""
        return {"centroids": (1, head_dim)}

    def forward_cache(
        self, cache: Mapping[str, vTensor], loc: Any, ctx: Any
    ) -> None:
        """Takes the mean of a block's keys."""
        self.centroid(cache["k"], cache["centroids"], loc=loc, ctx=ctx)

    def forward_indexer(
        self, q: vTensor, o: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> None:
        """Multiplies the centroids by the mean query."""
        query = self.query(q, ctx=ctx)
        score = self.score(query, cache["centroids"], ctx=ctx)
        self.choose(score, o, ctx=ctx)
