"""What contexts read from a pool and from what runs the model."""

from typing import Protocol


class CacheParent(Protocol):
    """A pool, as the cache side sees it."""

    @property
    def page_size(self) -> int:
        """Tokens per page."""

    @property
    def block_size(self) -> int:
        """Tokens per block; it divides the page size."""

    @property
    def num_pages(self) -> int:
        """Pages, counted for each key-value head of its own."""

    @property
    def head_num(self) -> int:
        """Key-value heads."""

    @property
    def head_dim(self) -> int:
        """Elements per head."""


class IndexerParent(CacheParent, Protocol):
    """A pool and its attention, as the indexer side sees them.

    It may also have `dense_kv_indptr`, `dense_kv_indices`,
    `sparse_kv_indptr` and `sparse_kv_indices`, the arrays that each step
    fills; without them they are set on the context before each call.
    """

    @property
    def group_size(self) -> int:
        """Query heads that share a key-value head."""


class ServerArgs(Protocol):
    """Settings of a server. Those with a default may be absent.

    Cache and indexer: `vortex_dtype` ("bfloat16"),
    `vortex_compilation_cache_dir` (None). Indexer: `vortex_topk_val` (0),
    `vortex_topk_ratio` (0.0), `vortex_block_reserved_bos` (1),
    `vortex_block_reserved_eos` (1), `vortex_max_seq_lens` (-1: as long as the
    pool).
    """

    @property
    def max_prefill_tokens(self) -> int:
        """Tokens of the longest prefill."""


class RequestPool(Protocol):
    """Where requests have their rows."""

    @property
    def size(self) -> int:
        """Requests that run at once, at most."""


class ModelRunner(Protocol):
    """What runs the model.

    It may have `num_sms`, the streaming multiprocessors of its device.
    """

    @property
    def server_args(self) -> ServerArgs:
        """Its settings."""

    @property
    def req_to_token_pool(self) -> RequestPool:
        """Where its requests have their rows."""
