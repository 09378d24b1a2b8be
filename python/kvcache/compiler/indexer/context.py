"""The context in which blocks are scored and chosen."""

from typing import Any, ClassVar, Final, Self

from kvcache.compiler.creating import positive, shared_fields
from kvcache.compiler.graph_context import GraphContext
from kvcache.compiler.program import Side
from kvcache.compiler.protocols import IndexerParent, ModelRunner

_ARRAYS = (
    "dense_kv_indices",
    "dense_kv_indptr",
    "sparse_kv_indices",
    "sparse_kv_indptr",
)


class Context(GraphContext):
    """What the indexer side knows of a pool, and what it recorded.

    Made empty; `create` fills it, but for the four arrays of a step if the
    pool has none. Not safe to create from several threads.
    """

    __slots__ = (
        "batch_size",
        "block_reserved_bos",
        "block_reserved_eos",
        "block_size",
        *_ARRAYS,
        "group_size",
        "head_dim",
        "max_bs",
        "max_num_blocks",
        "max_num_blocks_per_request",
        "num_blocks_per_page",
        "num_kv_heads",
        "num_qo_heads",
        "num_sms",
        "page_size",
        "topk_ratio",
        "topk_val",
    )

    side: ClassVar[Side] = Side.INDEXER

    dense_kv_indptr: Any
    """Where the blocks of each request and head begin, `[rows + 1]`."""
    dense_kv_indices: Any
    """The physical blocks to choose from, `[dense_kv_indptr[-1]]`."""
    sparse_kv_indptr: Any
    """Where the chosen blocks of each request and head begin, `[rows + 1]`."""
    sparse_kv_indices: Any
    """The chosen blocks, `[sparse_kv_indptr[-1]]`."""
    batch_size: int
    """Requests of the step; rows are `batch_size * num_kv_heads`."""
    max_bs: int
    """Requests of a step, at most."""
    group_size: int
    """Query heads that share a key-value head."""
    num_kv_heads: int
    """Key-value heads."""
    num_qo_heads: int
    """Query heads."""
    head_dim: int
    """Elements per head."""
    page_size: int
    """Tokens per page."""
    block_size: int
    """Tokens per block; it divides the page size."""
    num_blocks_per_page: int
    """Blocks of a page."""
    max_num_blocks_per_request: int
    """Blocks of the longest request."""
    max_num_blocks: int
    """Blocks of a step over all requests and heads, at most."""
    topk_val: int
    """Blocks that are chosen by their scores, at least."""
    topk_ratio: float
    """The part of a request's blocks that is chosen, at least; 0 to 1."""
    block_reserved_bos: int
    """The first blocks of a request, which are always chosen."""
    block_reserved_eos: int
    """The last blocks of a request, which are always chosen."""
    num_sms: int
    """Streaming multiprocessors of the GPU; cores where there is none."""

    def __init__(self) -> None:
        """Is empty, and records."""
        super().__init__()
        self.name = "Indexer"
        self.batch_size = 0

    def set_batch_size(self, n: int) -> None:
        """Sets how many requests the step has."""
        self.batch_size = n

    def create(
        self,
        parent: IndexerParent,
        model_runner: ModelRunner,
        *,
        overwrite: bool = False,
    ) -> Self:
        """Fills the fields; a context that raises is as it was.

        Filled again, it forgets what was recorded and generated, and keeps
        `mode`, the size of the batch and what was counted.

        Args:
            parent: The pool and its attention.
            model_runner: What runs the model.
            overwrite: Whether a context that is created may be filled again.

        Raises:
            RuntimeError: If the context is created and not to be overwritten.
            AssertionError: If blocks do not fill a page, a size is no positive
                int, or what is chosen makes no sense.
            TypeError: If the type between operators is no float.
        """
        self._check_overwrite(overwrite=overwrite)
        fields = shared_fields(parent, model_runner, side="indexer")
        fields |= _head_fields(parent) | _budget(model_runner.server_args)
        longest = _blocks_per_request(
            parent, model_runner.server_args, fields["block_size"]
        )
        max_bs = positive("size", model_runner.req_to_token_pool.size)
        self._fill(
            fields
            | {
                "max_bs": max_bs,
                "max_num_blocks_per_request": longest,
                "max_num_blocks": longest * max_bs * fields["num_kv_heads"],
            }
        )
        return self


def _head_fields(parent: IndexerParent) -> dict[str, Any]:
    heads = positive("head_num", parent.head_num)
    group = positive("group_size", parent.group_size)
    arrays = {
        name: getattr(parent, name) for name in _ARRAYS if hasattr(parent, name)
    }
    return arrays | {
        "num_kv_heads": heads,
        "group_size": group,
        "num_qo_heads": heads * group,
    }


def _budget(settings: Any) -> dict[str, Any]:
    topk_val = getattr(settings, "vortex_topk_val", 0)
    ratio = getattr(settings, "vortex_topk_ratio", 0.0)
    if topk_val < 0 or not 0 <= ratio <= 1:
        raise AssertionError(
            "Context: wanted a topk_val that is not negative and a topk_ratio "
            f"from 0 to 1, got {topk_val} and {ratio}"
        )
    return {
        "topk_val": topk_val,
        "topk_ratio": float(ratio),
        "block_reserved_bos": positive(
            "block_reserved_bos",
            getattr(settings, "vortex_block_reserved_bos", 1),
        ),
        "block_reserved_eos": positive(
            "block_reserved_eos",
            getattr(settings, "vortex_block_reserved_eos", 1),
        ),
    }


def _blocks_per_request(
    parent: IndexerParent, settings: Any, block_size: int
) -> int:
    """A request's longest length in blocks: told, or all of the pool."""
    longest = getattr(settings, "vortex_max_seq_lens", -1)
    if longest < 0:
        longest = parent.num_pages // parent.head_num * parent.page_size
    return max(1, -(-longest // block_size))


ctx: Final[Context] = Context()
"""A context for programs that need only one."""


def get_ctx() -> Context:
    """Returns `ctx`, always the same."""
    return ctx
