"""MAX's two managers, at their best.

Their fastest hash (`ahash64`, the default), no runtime checks, one
`runtime_inputs` for a whole batch; the other calls take one request each.
"""

from collections.abc import Sequence
from typing import Any

from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef
from max.nn.kv_cache import MHAKVCacheParams
from max.pipelines.context import TextContext, TokenBuffer
from max.pipelines.kv_cache import JengaKVCacheManager, PagedKVCacheManager
from max.pipelines.kv_cache.paged_kv_cache.block_manager import BlockManager
from max.pipelines.kv_cache.paged_kv_cache.block_utils import (
    hash_request_tokens,
)
from max.pipelines.kv_cache.paged_kv_cache.jenga_block_pool import (
    JengaBlockPool,
)

from benchmarks.manager.sides import (
    BYTES_PER_TOKEN,
    DTYPE,
    HEAD_DIM,
    NUM_KV_HEADS,
    NUM_LAYERS,
    Policy,
    Pool,
    Table,
)
from benchmarks.manager.streams import TokenIds
from benchmarks.manager.timing import Stopwatch


def text_contexts(
    prompts: Sequence[TokenIds], max_length: int
) -> list[TextContext]:
    """Returns MAX's requests; each owns its tokens."""
    return [
        TextContext(tokens=TokenBuffer(ids.copy()), max_length=max_length)
        for ids in prompts
    ]


def max_params(page_size: int) -> MHAKVCacheParams:
    """Returns the pages' shape as MAX is told it."""
    return MHAKVCacheParams(
        dtype=DType[DTYPE],
        head_dim=HEAD_DIM,
        num_layers=NUM_LAYERS,
        devices=[DeviceRef.CPU()],
        enable_prefix_caching=True,
        kv_hash_algo="ahash64",
        page_size=page_size,
        n_kv_heads=NUM_KV_HEADS,
    )


class ContextSide:
    """`TextContext` objects through `claim`, `alloc`, `step` and `release`."""

    who: str
    policy: Policy

    def __init__(self, manager: Any, pool: Pool) -> None:
        """Starts without requests."""
        self.pool = pool
        self._manager = manager
        self._max_length = pool.max_seq_len + 1
        self._contexts: list[TextContext] = []

    def open(self, prompts: Sequence[TokenIds]) -> None:
        """Makes contexts."""
        self._contexts = text_contexts(prompts, self._max_length)

    def admit(self) -> None:
        """Claims each, then allocates for each."""
        manager = self._manager
        for context in self._contexts:
            manager.claim(context)
        for context in self._contexts:
            manager.alloc(context)

    def inputs(self) -> object:
        """Fills the inputs of all."""
        return self._manager.runtime_inputs([self._contexts])

    def hits(self) -> int:
        """Adds up where the contexts were moved to."""
        return sum(c.tokens.processed_length for c in self._contexts)

    def update(self, tokens: TokenIds) -> None:
        """Appends a token to each context."""
        for context, token in zip(self._contexts, tokens.tolist(), strict=True):
            context.update(token)

    def commit(self) -> None:
        """Commits each."""
        step = self._manager.step
        for context in self._contexts:
            step(context)

    def start(self, tokens: TokenIds) -> None:
        """Ends the prompts' step."""
        self.update(tokens)
        self.commit()

    def decode(self, tokens: TokenIds, watch: Stopwatch) -> None:
        """Decodes; the contexts' own update is left out."""
        alloc = self._manager.alloc
        for row in tokens:
            watch.start()
            for context in self._contexts:
                alloc(context)
            watch.lap(self.inputs)
            watch.stop()
            self.update(row)
            watch.start()
            self.commit()
            watch.stop()

    def tables(self) -> tuple[Table, Table]:
        """Allocates a step and reads its inputs."""
        for context in self._contexts:
            self._manager.alloc(context)
        (step,) = self._manager.runtime_inputs([self._contexts])
        return step.cache_lengths.to_numpy(), step.lookup_table.to_numpy()

    def leave(self) -> None:
        """Releases each."""
        release = self._manager.release
        for context in self._contexts:
            release(context)
        self._contexts = []

    def reset(self) -> None:
        """Forgets what is cached."""
        self._manager.reset_prefix_cache()


class MaxPaged(ContextSide):
    """`PagedKVCacheManager`, the older one."""

    who = "max-paged"
    policy = Policy(blank_first=False, hits_first=False)

    def __init__(self, pool: Pool) -> None:
        """Allocates the pool."""
        manager = PagedKVCacheManager(
            params=max_params(pool.page_size),
            session=InferenceSession(devices=[CPU()]),
            total_num_pages=pool.num_pages,
            enable_runtime_checks=False,
            max_batch_size=pool.max_batch_size,
        )
        super().__init__(manager, pool)


class MaxJenga(ContextSide):
    """`JengaKVCacheManager`, the default."""

    who = "max-jenga"
    policy = Policy(blank_first=True, hits_first=False)

    def __init__(self, pool: Pool) -> None:
        """Allocates the pool; the null page comes on top."""
        page_bytes = BYTES_PER_TOKEN * pool.page_size
        manager = JengaKVCacheManager.create(
            params=max_params(pool.page_size),
            available_bytes=(pool.num_pages + 1) * page_bytes,
            max_batch_size=pool.max_batch_size,
            max_seq_len=pool.max_seq_len,
        )
        num_pages = manager.block_count().total
        assert num_pages == pool.num_pages, (num_pages, pool)
        super().__init__(manager, pool)


def make_paged_books(pool: Pool) -> object:
    """Returns the books of `PagedKVCacheManager`, without pages."""
    return BlockManager(
        total_num_blocks=pool.num_pages,
        block_size=pool.page_size,
        enable_prefix_caching=True,
    )


def make_jenga_books(pool: Pool) -> object:
    """Returns the books of `JengaKVCacheManager`, without pages."""
    return JengaBlockPool(pool.num_pages + 1, {"kv": 1})


def hash_pages(tokens: TokenIds, page_size: int) -> list[bytes]:
    """Returns the hashes of a prompt's whole pages; both managers use them."""
    hashes: list[bytes] = hash_request_tokens(tokens, page_size, algo="ahash64")
    return hashes
