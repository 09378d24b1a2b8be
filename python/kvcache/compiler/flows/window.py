"""The first and the last blocks, and some between by their mean key."""

from kvcache.compiler.flows.block_sparse import BlockSparseAttention
from kvcache.compiler.registry import register
from kvcache.errors import InvalidParamsError


@register("window", "sliding_window_sparse_attention")
class SlidingWindowAttention(BlockSparseAttention):
    """Attends to sinks and to a window, and to blocks between by centroids.

    What the budget leaves after both goes to blocks between them, by the
    scores of `block_sparse`. With `topk_val=0` and a small budget it is a
    plain sliding window.

    Args:
        first: Blocks at the begin of a sequence that are always attended.
        last: Blocks at its end that are; the incomplete one is one of them.
        topk_val: Blocks between them that are chosen at least.

    Raises:
        InvalidParamsError: If `first` or `last` is below 1 or `topk_val`
            below 0.

    References:
        [StreamingLLM](https://arxiv.org/abs/2309.17453), for sinks.
    """

    def __init__(
        self, first: int = 1, last: int = 4, topk_val: int = 0
    ) -> None:
        """Checks and keeps which blocks are always attended."""
        super().__init__()
        if first < 1 or last < 1 or topk_val < 0:
            raise InvalidParamsError(
                "wanted first and last of at least 1 and a topk_val that is "
                f"not negative, got {first}, {last} and {topk_val}"
            )
        self.block_reserved_bos = first
        self.block_reserved_eos = last
        self.topk_val = topk_val
