"""The flows that come with this package, by the names they register.

`block_sparse`, `gqa_block_sparse`, `quest` and `window`.
"""

from kvcache.compiler.flows.block_sparse import BlockSparseAttention
from kvcache.compiler.flows.gqa_block_sparse import GQABlockSparseAttention
from kvcache.compiler.flows.quest import GQAQuestSparseAttention
from kvcache.compiler.flows.window import SlidingWindowAttention

__all__ = [
    "BlockSparseAttention",
    "GQABlockSparseAttention",
    "GQAQuestSparseAttention",
    "SlidingWindowAttention",
]
