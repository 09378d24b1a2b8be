"""Drawn sequences of MAX's calls, on MAX's manager and on ours."""

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from beside_max import Managers, Pair, assert_equal_inputs, pair

DOCUMENTS = [[1000 * d + i % 97 for i in range(400)] for d in range(2)]
"""What prompts begin with, and what the model says."""


class Serving(RuleBasedStateMachine):
    """A scheduler's passes, as MAX does them: alloc, cut, run, step."""

    requests = Bundle("requests")
    kind = "PagedKVCacheManager"
    num_pages = 4096
    """So many that none is handed out twice: equal calls, equal pages."""
    has_caching = True
    shares_prompts = True

    @property
    def has_same_pages(self) -> bool:
        """Whether equal calls must have got pages of equal numbers so far."""
        return self.num_pages == Serving.num_pages and (
            self.managers.has_same_pages
        )

    @initialize()
    def start(self) -> None:
        self.managers = Managers(
            self.kind,
            num_pages=self.num_pages,
            max_batch_size=4,
            enable_prefix_caching=self.has_caching,
        )
        self.claimed: dict[Pair, int] = {}
        self.num_claimed = 0
        self.fell_short = False

    @rule(
        target=requests,
        document=st.sampled_from(range(len(DOCUMENTS))),
        shared=st.integers(1, 70),
        own=st.integers(0, 40),
        salt=st.sampled_from([None, None, "tenant"]),
    )
    def claim(
        self, document: int, shared: int, own: int, salt: str | None
    ) -> Any:
        if len(self.claimed) == 4:
            return multiple()
        self.num_claimed += 1
        rest = [10_000 * self.num_claimed + i for i in range(own)]
        tokens = DOCUMENTS[document][:shared] + rest
        if not self.shares_prompts:
            tokens = [t + 100_000 * self.num_claimed for t in tokens]
        request = pair(tokens, f"request {self.num_claimed}", salt)
        self.managers.both("claim", request)
        self.claimed[request] = document
        return request

    @rule(request=requests)
    def alloc(self, request: Pair) -> None:
        self.fell_short |= not self.managers.alloc(request)

    @rule(batch=st.lists(requests, max_size=4, unique_by=id), data=st.data())
    def run(self, batch: list[Pair], data: Any) -> None:
        there = [p for p in batch if self.managers.alloc(p)]
        self.fell_short |= len(there) < len(batch)
        for request in there:
            length = request.tokens.active_length
            if length > 2 and data.draw(st.booleans()):
                request.chunk(data.draw(st.integers(1, length - 1)))
        mine, theirs = self.managers.inputs(there)
        assert_equal_inputs(mine, theirs, same_pages=self.has_same_pages)
        for request in there:
            document = DOCUMENTS[self.claimed[request]]
            token = document[len(request.tokens) % len(document)]
            self.managers.advance(request, token)

    @rule(request=consumes(requests))
    def release(self, request: Pair) -> None:
        self.managers.both("release", request)
        assert self.managers.both("contains", request) == [False, False]
        del self.claimed[request]

    @rule()
    def reset(self) -> None:
        self.managers.mine.reset_prefix_cache()
        self.managers.theirs.reset_prefix_cache()

    @invariant()
    def both_answer_the_same(self) -> None:
        if not hasattr(self, "managers"):
            return
        mine, theirs = self.managers.mine, self.managers.theirs
        one, other = mine.block_count(), theirs.block_count()
        assert (one.free, one.total) == (other.free, other.total)
        for request in self.claimed:
            held = self.managers.both("num_req_blocks", request)
            assert held[0] == held[1]
            hits = self.managers.both("get_prefix_cache_hit_counts", request)
            assert [h.total_blocks for h in hits[0]] == [
                h.total_blocks for h in hits[1]
            ]
            rows = self.managers.both("get_req_blocks_per_leaf", request)
            if self.has_same_pages:
                assert rows[0] == rows[1]
        if not self.fell_short:
            assert mine.get_metrics_aggregated() == (
                theirs.get_metrics_aggregated()
            )


class Uncached(Serving):
    """A small pool, so that pages run short and come back."""

    num_pages = 12
    has_caching = False


class Unshared(Serving):
    """The same with prompts that no two requests share."""

    num_pages = 12
    shares_prompts = False


FEW = settings(max_examples=30, stateful_step_count=30)
TestServing = Serving.TestCase
TestUncached = Uncached.TestCase
TestUnshared = Unshared.TestCase
TestServing.settings = TestUncached.settings = TestUnshared.settings = FEW
