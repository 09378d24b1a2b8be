"""The context in which summaries of blocks are recorded: the seed's."""

from typing import ClassVar, Final, Self

from kvcache.compiler.creating import positive, shared_fields
from kvcache.compiler.graph_context import GraphContext
from kvcache.compiler.program import Side
from kvcache.compiler.protocols import CacheParent, ModelRunner


class Context(GraphContext):
    """What the cache side knows of a pool, and what it recorded.

    Made empty; `create` fills it. Not safe to create from several threads.
    """

    __slots__ = (
        "block_size",
        "head_dim",
        "head_num",
        "max_new_tokens_per_batch",
        "num_blocks_per_page",
        "num_sms",
        "page_size",
        "total_num_blocks",
        "total_num_pages",
    )

    side: ClassVar[Side] = Side.CACHE

    max_new_tokens_per_batch: int
    """New tokens of a step, at most."""
    page_size: int
    """Tokens per page."""
    total_num_pages: int
    """Pages of the pool, counted for each key-value head of its own."""
    block_size: int
    """Tokens per block; it divides the page size."""
    num_blocks_per_page: int
    """Blocks of a page."""
    total_num_blocks: int
    """Blocks of the pool, counted for each key-value head of its own."""
    head_dim: int
    """Elements per head."""
    head_num: int
    """Key-value heads."""
    num_sms: int
    """Streaming multiprocessors of the GPU; cores where there is none."""

    def __init__(self) -> None:
        """Is empty, and records."""
        super().__init__()
        self.name = "Cache"

    def create(
        self,
        parent: CacheParent,
        model_runner: ModelRunner,
        *,
        overwrite: bool = False,
    ) -> Self:
        """Fills every field; a context that raises is as it was.

        Filled again, it forgets what was recorded and generated, and keeps
        `mode` and what was counted.

        Args:
            parent: The pool.
            model_runner: What runs the model.
            overwrite: Whether a context that is created may be filled again.

        Raises:
            RuntimeError: If the context is created and not to be overwritten.
            AssertionError: If blocks do not fill a page, or a size is no
                positive int.
            TypeError: If the type between operators is no float.
        """
        self._check_overwrite(overwrite=overwrite)
        fields = shared_fields(parent, model_runner, side="cache")
        pages = positive("num_pages", parent.num_pages)
        tokens = model_runner.server_args.max_prefill_tokens
        requests = model_runner.req_to_token_pool.size
        self._fill(
            fields
            | {
                "total_num_pages": pages,
                "total_num_blocks": pages * fields["num_blocks_per_page"],
                "head_num": positive("head_num", parent.head_num),
                "max_new_tokens_per_batch": max(
                    positive("max_prefill_tokens", tokens),
                    positive("req_to_token_pool.size", requests),
                ),
            }
        )
        return self


ctx: Final[Context] = Context()
"""A context for programs that need only one."""


def get_ctx() -> Context:
    """Returns `ctx`, always the same."""
    return ctx
