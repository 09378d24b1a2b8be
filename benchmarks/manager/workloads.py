"""W1 to W4: what a scheduler does with a manager, the same for every side."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.manager.expected import CachedPages
from benchmarks.manager.sides import Policy, Pool, Side
from benchmarks.manager.streams import (
    TokenIds,
    cold_prompts,
    document_prompt,
    draw,
    in_passes,
    shared_prompts,
    uneven_prompts,
    zipf_ranks,
)
from benchmarks.manager.timing import Sample, Stopwatch

PASS_SIZE = 8
"""Requests that are admitted at a time."""


class Workload(Protocol):
    """Something to measure on every side, one repeat at a time."""

    @property
    def case(self) -> str:
        """Its name in the results."""

    def pool(self, page_size: int) -> Pool:
        """Returns the pool that it wants."""

    def run(self, side: Side) -> Sample:
        """Runs it once, from nothing cached; asserts the hits."""


@dataclass(frozen=True, slots=True)
class Cold:
    """W1: prompts that share nothing, in a pool that holds them all."""

    num_requests: int = 256
    num_tokens: int = 4096
    case: str = "W1"

    def pool(self, page_size: int) -> Pool:
        """Returns a pool in which nothing is evicted."""
        pages = -(-self.num_tokens // page_size) * self.num_requests
        return Pool(pages, page_size, PASS_SIZE, self.num_tokens + page_size)

    def run(self, side: Side) -> Sample:
        """Returns the time of a request."""
        side.reset()
        prompts = cold_prompts(self.num_requests, self.num_tokens)
        watch = Stopwatch()
        hits = serve(side, in_passes(prompts, PASS_SIZE), watch)
        check_hits(side, hits, 0)
        return watch.per(self.num_requests)


@dataclass(frozen=True, slots=True)
class Shared:
    """W2: prompts behind one that they share, in a pool that holds them."""

    num_requests: int = 1000
    num_shared: int = 2048
    num_own: int = 256
    case: str = "W2"

    def pool(self, page_size: int) -> Pool:
        """Returns a pool in which nothing is evicted."""
        length = self.num_shared + self.num_own
        # The first pass computes the shared pages in every request.
        pages = PASS_SIZE * self.num_shared + self.num_requests * self.num_own
        return Pool(
            pages // page_size, page_size, PASS_SIZE, length + page_size
        )

    def run(self, side: Side) -> Sample:
        """Returns the time of a request."""
        side.reset()
        prompts = shared_prompts(
            self.num_requests, self.num_shared, self.num_own
        )
        watch = Stopwatch()
        hits = serve(side, in_passes(prompts, PASS_SIZE), watch)
        # All of the first pass are admitted before one of them is computed.
        check_hits(
            side, hits, (self.num_requests - PASS_SIZE) * self.num_shared
        )
        return watch.per(self.num_requests)


@dataclass(frozen=True, slots=True)
class Decode:
    """W3: a running batch, one token each per step."""

    num_requests: int = 256
    num_tokens: int = 2000
    num_steps: int = 500
    case: str = "W3"

    def pool(self, page_size: int) -> Pool:
        """Returns a pool in which nothing is evicted."""
        length = self.num_tokens + self.num_tokens // 20 + self.num_steps + 2
        pages = -(-length // page_size) * self.num_requests
        return Pool(pages, page_size, self.num_requests, length)

    def run(self, side: Side) -> Sample:
        """Returns the time of a step."""
        side.reset()
        prompts = uneven_prompts(self.num_requests, self.num_tokens)
        side.open(prompts)
        side.admit()
        side.inputs()
        check_hits(side, side.hits(), 0)
        tokens = draw(7, self.num_steps + 1, self.num_requests)
        side.start(tokens[0])
        watch = Stopwatch()
        side.decode(tokens[1:], watch)
        check_tables(side, [len(ids) + self.num_steps for ids in prompts])
        side.leave()
        return watch.per(self.num_steps)


@dataclass(frozen=True, slots=True)
class Eviction:
    """W4: documents, some often and most rarely, in a pool for a quarter.

    What comes first fills the pool and does not count.
    """

    num_pages: int = 16_384
    num_documents: int = 1024
    document_pages: int = 64
    own_pages: int = 8
    num_before: int = 1024
    num_requests: int = 2048
    case: str = "W4"

    def pool(self, page_size: int) -> Pool:
        """Returns a pool that holds a part of the documents."""
        length = (self.document_pages + self.own_pages + 1) * page_size
        return Pool(self.num_pages, page_size, PASS_SIZE, length)

    def run(self, side: Side) -> Sample:
        """Returns the time of a request."""
        side.reset()
        page_size = side.pool.page_size
        watch = Stopwatch()
        before = serve(side, self._passes(page_size, counted=False), watch)
        watch = Stopwatch()
        hits = serve(side, self._passes(page_size, counted=True), watch)
        wanted = self.expected_pages(side.policy)
        assert hits, "wanted some hits"
        check_hits(side, before, wanted[0] * page_size)
        check_hits(side, hits, wanted[1] * page_size)
        return watch.per(self.num_requests)

    def expected_pages(self, policy: Policy) -> tuple[int, int]:
        """Returns the hits of what comes first, and of what counts."""
        return _expected_pages(self, policy)

    def requests(self, *, counted: bool) -> list[tuple[int, int]]:
        """Returns each request's serial number and document."""
        ranks = zipf_ranks(
            self.num_before + self.num_requests, self.num_documents
        )
        pairs = list(enumerate(ranks))
        return pairs[self.num_before :] if counted else pairs[: self.num_before]

    def _passes(
        self, page_size: int, *, counted: bool
    ) -> Iterator[list[TokenIds]]:
        requests = self.requests(counted=counted)
        for begin in range(0, len(requests), PASS_SIZE):
            yield [
                document_prompt(
                    rank,
                    serial,
                    self.document_pages * page_size,
                    self.own_pages * page_size,
                )
                for serial, rank in requests[begin : begin + PASS_SIZE]
            ]


@functools.cache
def _expected_pages(work: Eviction, policy: Policy) -> tuple[int, int]:
    pages = CachedPages(work.num_pages, policy)
    totals = []
    for counted in (False, True):
        keys = [
            [
                *(("document", rank, i) for i in range(work.document_pages)),
                *(("own", serial, i) for i in range(work.own_pages)),
            ]
            for serial, rank in work.requests(counted=counted)
        ]
        totals.append(
            sum(
                pages.serve(keys[begin : begin + PASS_SIZE])
                for begin in range(0, len(keys), PASS_SIZE)
            )
        )
    return totals[0], totals[1]


def serve(
    side: Side, passes: Iterable[Sequence[TokenIds]], watch: Stopwatch
) -> int:
    """Admits, computes and releases pass by pass; returns the hits."""
    hits = 0
    for prompts in passes:
        side.open(prompts)
        watch.start()
        side.admit()
        watch.lap(side.inputs)
        watch.stop()
        hits += side.hits()
        side.update(np.full(len(prompts), 7))
        watch.start()
        side.commit()
        side.leave()
        watch.stop()
    return hits


def check_hits(side: Side, hits: int, wanted: int) -> None:
    """Stops the benchmark if a side found more or less than there is.

    Raises:
        SystemExit: If it did.
    """
    if hits != wanted:
        raise SystemExit(
            f"{side.who}: wanted hits of {wanted} tokens, got {hits}"
        )


def check_tables(side: Side, lengths: Sequence[int]) -> None:
    """Stops the benchmark if a decode step would read wrong tables.

    Args:
        side: Its requests share nothing.
        lengths: Tokens of each whose keys and values exist by now.

    Raises:
        SystemExit: If a length is wrong, or two places have the same page.
    """
    cache_lengths, lookup_table = side.tables()
    if cache_lengths.tolist() != list(lengths):
        raise SystemExit(f"{side.who}: the cache lengths are wrong")
    used = [
        row[: length // side.pool.page_size + 1]
        for row, length in zip(lookup_table, lengths, strict=True)
    ]
    pages = np.concatenate(used)
    if len(np.unique(pages)) < len(pages):
        raise SystemExit(f"{side.who}: a page is there twice")
