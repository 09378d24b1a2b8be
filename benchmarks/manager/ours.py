"""Our manager behind each of its three interfaces."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from max.driver import CPU

from benchmarks.manager.sides import (
    DTYPE,
    HEAD_DIM,
    NUM_KV_HEADS,
    NUM_LAYERS,
    Factory,
    Policy,
    Pool,
    Table,
)
from benchmarks.manager.streams import TokenIds
from benchmarks.manager.timing import Stopwatch
from kvcache import KVCacheParams, PagedKVCacheManager, Request

BATCH = "kvcache-batch"
OBJECTS = "kvcache-objects"
MAX_OBJECTS = "kvcache-max-objects"


def make_manager(pool: Pool) -> Any:
    """Returns our manager with an empty pool."""
    params = KVCacheParams(
        DTYPE,
        NUM_KV_HEADS,
        HEAD_DIM,
        enable_prefix_caching=True,
        page_size=pool.page_size,
    )
    return PagedKVCacheManager(
        params,
        pool.max_batch_size,
        pool.max_seq_len,
        NUM_LAYERS,
        [CPU()],
        None,
        pool.num_pages * params.bytes_per_page(NUM_LAYERS),
        page_size=pool.page_size,
    )


class ObjectSide:
    """Lists of `Request` objects: one call each per step for all of them.

    Where the manager has no `reserve_batch`, requests are reserved one by one.
    """

    who = OBJECTS
    policy = Policy(blank_first=True, hits_first=False)

    def __init__(self, pool: Pool) -> None:
        """Allocates the pool."""
        self.pool = pool
        self._manager = make_manager(pool)
        self._requests: list[Request] = []
        self._reserve: Callable[[], None] = self._reserve_in_turn
        if hasattr(self._manager, "reserve_batch"):
            self.policy = Policy(blank_first=True, hits_first=True)
            self._reserve = self._reserve_at_once

    def open(self, prompts: Sequence[TokenIds]) -> None:
        """Makes requests; each copies its tokens."""
        self._requests = [Request(ids) for ids in prompts]

    def admit(self) -> None:
        """Claims each, then reserves for all."""
        claim = self._manager.external_claim
        for request in self._requests:
            claim(request.request_id)
        self._reserve()

    def inputs(self) -> object:
        """Makes the inputs of all."""
        return self._manager.fetch(self._requests)

    def hits(self) -> int:
        """Adds up where the requests were moved to."""
        return sum(r.tokens.processed_length for r in self._requests)

    def update(self, tokens: TokenIds) -> None:
        """Appends a token to each request."""
        for request, token in zip(self._requests, tokens.tolist(), strict=True):
            request.update(token)

    def commit(self) -> None:
        """Commits all."""
        self._manager.step(self._requests)

    def start(self, tokens: TokenIds) -> None:
        """Ends the prompts' step."""
        self.update(tokens)
        self.commit()

    def decode(self, tokens: TokenIds, watch: Stopwatch) -> None:
        """Decodes; the requests' own update is left out."""
        for row in tokens:
            watch.start()
            self._reserve()
            watch.lap(self.inputs)
            watch.stop()
            self.update(row)
            watch.start()
            self.commit()
            watch.stop()

    def tables(self) -> tuple[Table, Table]:
        """Reserves a step and reads its inputs."""
        self._reserve()
        (step,) = self._manager.fetch(self._requests)
        return step.cache_lengths.to_numpy(), step.lookup_table.to_numpy()

    def leave(self) -> None:
        """Releases each."""
        release = self._manager.release
        for request in self._requests:
            release(request.request_id)
        self._requests = []

    def reset(self) -> None:
        """Forgets what is cached."""
        self._manager.reset_prefix_cache()

    def _reserve_in_turn(self) -> None:
        reserve = self._manager.maybe_reserve
        for request in self._requests:
            assert reserve(request), "wanted pages, there are none"

    def _reserve_at_once(self) -> None:
        assert self._manager.reserve_batch(self._requests, 1)


class BatchSide:
    """A running batch: one handle, tokens as one array, tables in place."""

    who = BATCH
    policy = Policy(blank_first=True, hits_first=True)

    def __init__(self, pool: Pool) -> None:
        """Allocates the pool and opens the batch."""
        self.pool = pool
        self._manager = make_manager(pool)
        self._batch = self._manager.open_batch()
        self._prompts: list[npt.NDArray[np.int32]] = []
        self._hits = np.zeros(0, np.int64)

    def open(self, prompts: Sequence[TokenIds]) -> None:
        """Keeps the prompts as 32-bit ids, which a batch takes as they are."""
        self._prompts = [ids.astype(np.int32) for ids in prompts]

    def admit(self) -> None:
        """Claims and reserves all at once."""
        self._hits = self._batch.admit(self._prompts)

    def inputs(self) -> object:
        """Returns the buffers, which are written in place."""
        return self._batch.inputs()

    def hits(self) -> int:
        """Adds up what `admit` said."""
        return int(self._hits.sum())

    def update(self, tokens: TokenIds) -> None:
        """Does nothing: `advance` takes the tokens."""

    def commit(self) -> None:
        """Commits all."""
        self._batch.commit()

    def start(self, tokens: TokenIds) -> None:
        """Ends the prompts' step."""
        self._batch.advance(tokens)

    def decode(self, tokens: TokenIds, watch: Stopwatch) -> None:
        """Decodes; nothing is left out."""
        batch = self._batch
        watch.start()
        for row in tokens:
            batch.inputs()
            batch.advance(row)
        watch.stop()

    def tables(self) -> tuple[Table, Table]:
        """Reads the inputs."""
        (step,) = self._batch.inputs()
        return step.cache_lengths.to_numpy(), step.lookup_table.to_numpy()

    def leave(self) -> None:
        """Releases all at once."""
        self._batch.leave(range(len(self._prompts)))
        self._prompts = []

    def reset(self) -> None:
        """Forgets what is cached."""
        self._manager.reset_prefix_cache()


def offered() -> tuple[dict[str, Factory], list[str]]:
    """Returns the interfaces that there are, and why others are not measured.

    The last one takes MAX's own requests, so it wants MAX's packages.
    """
    sides: dict[str, Factory] = {}
    missing = []
    if hasattr(PagedKVCacheManager, "open_batch"):
        sides[BATCH] = BatchSide
    else:
        missing.append(f"{BATCH}: the manager has no open_batch")
    sides[OBJECTS] = ObjectSide
    calls = ("claim", "alloc", "runtime_inputs")
    absent = [x for x in calls if not hasattr(PagedKVCacheManager, x)]
    if absent:
        missing.append(f"{MAX_OBJECTS}: the manager has no {', '.join(absent)}")
        return sides, missing
    try:
        from benchmarks.manager.ours_for_max import MaxObjectSide
    except ImportError as error:
        missing.append(f"{MAX_OBJECTS}: {error}")
    else:
        sides[MAX_OBJECTS] = MaxObjectSide
    return sides, missing
