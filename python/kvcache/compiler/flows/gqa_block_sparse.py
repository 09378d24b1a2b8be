"""Blocks by the share of attention that any query gives their mean key."""

from collections.abc import Mapping
from typing import Any

from kvcache.compiler import indexer
from kvcache.compiler.flows.block_sparse import BlockSparseAttention
from kvcache.compiler.registry import register
from kvcache.compiler.vtensor import vTensor


@register("gqa_block_sparse", "gqa_block_sparse_attention")
class GQABlockSparseAttention(BlockSparseAttention):
    """Keeps the centroid of each block's keys, `(1, head_dim)`.

    Each query of the group spreads a softmax over the blocks' centroids. A
    block's score is the largest share that a query gives it, so that a query
    with small products counts as much as one with large ones.

    References:
        [Native Sparse Attention](https://arxiv.org/abs/2502.11089), for one
        choice that the queries of a group share.
    """

    def __init__(self) -> None:
        """Makes the operators."""
        super().__init__()
        self.products = indexer.GeMM()
        self.share = indexer.Softmax(dim=0, scale=0.09)
        self.largest = indexer.Max(dim=2)

    def forward_indexer(
        self, q: vTensor, o: vTensor, cache: Mapping[str, vTensor], ctx: Any
    ) -> None:
        """Takes the largest share of attention over the group's queries."""
        products = self.products(q, cache["centroids"], ctx=ctx)
        shares = self.share(products, ctx=ctx)
        score = self.largest(shares, ctx=ctx)
        self.choose(score, o, ctx=ctx)
