"""Every entry of every lookup table, through whatever a loop may do."""

from typing import Any

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from max.driver import CPU

from kvcache import InsufficientPagesError, KVCacheParams, Request
from kvcache.errors import RequestTooLargeError, SequenceTooLongError
from kvcache.manager import PagedKVCacheManager
from page_oracle import PageOracle

MAX_SEQ_LEN = 24
MAX_BATCH_SIZE = 4
HOST = CPU()

TOKEN = st.sampled_from([0, 0, 0, 0, 0, 1])  # Prefixes are often equal.
PROMPT = st.builds(
    lambda length, other: [int(place == other) for place in range(length)],
    length=st.integers(1, 16),
    other=st.integers(0, 16),
)
SALT = st.sampled_from([None, None, None, ""])
STEPS = st.integers(1, 4)


def collide(parent: bytes, content: bytes) -> bytes:
    """A digest that says the same of everything."""
    del parent, content
    return b""


def tokens_of(request: Request) -> tuple[Any, ...]:
    tokens = request.tokens
    return (
        tokens.all.tolist(),
        tokens.processed_length,
        tokens.active_length,
        tokens.actively_chunked,
    )


class ManagerMachine(RuleBasedStateMachine):
    """A manager beside an oracle of slots and a trie of full pages."""

    @initialize(
        num_pages=st.integers(3, 14) | st.just(200),
        page_size=st.integers(1, 4),
        digest=st.sampled_from([None, collide]),
        caching=st.sampled_from([True, True, True, True, False]),
    )
    def start(self, num_pages, page_size, digest, caching) -> None:
        params = KVCacheParams(
            "float32", 1, 1, enable_prefix_caching=caching, page_size=page_size
        )
        self.manager = PagedKVCacheManager(
            params,
            MAX_BATCH_SIZE,
            MAX_SEQ_LEN,
            1,
            [HOST],
            None,
            num_pages * params.bytes_per_page(1),
            page_size=page_size,
            enable_runtime_checks=True,
            digest=digest,
        )
        assert self.manager.total_num_pages == num_pages
        self.caching = caching
        self.oracle = PageOracle(page_size, num_pages)
        self.requests: list[Request] = []
        self.committed: dict[object, int] = {}  # tokens of each request
        self.trie: set[tuple[Any, ...]] = set()
        self.is_trie_exact = True
        self.cache_tokens = 0

    # What should be found, and what should be unchanged.

    def snapshot(self) -> object:
        manager = self.manager
        return (
            [tokens_of(request) for request in self.requests],
            [manager.get_req_blocks(r.request_id) for r in self.requests],
            manager.num_free_blocks,
            manager.metrics,
            manager._replicas.members[0].core.eviction_order(),
        )

    def findable(self, request: Request) -> int:
        """Returns the tokens that a trie finds beyond the processed ones."""
        size = self.manager.page_size
        tokens = request.tokens
        begin = end = tokens.processed_length
        if begin != self.committed[request.request_id] or not self.caching:
            return 0
        ids = tokens.all.tolist()
        while end + size < len(ids) and self.key(request, end + size) in (
            self.trie
        ):
            end += size
        return end - begin

    def key(self, request: Request, end: int) -> tuple[Any, ...]:
        return (request.cache_salt, *request.tokens.all[:end].tolist())

    def saw_hit(self, request: Request, before: int, findable: int) -> None:
        hit = request.tokens.processed_length - before
        if self.manager.metrics.evicted_pages:
            event("evicted")
            self.is_trie_exact = False
        if self.is_trie_exact:
            assert hit == findable
        assert hit <= findable
        if hit:
            event("hit")
            self.committed[request.request_id] = before + hit
            self.cache_tokens += hit

    def too_much(self, requests: list[Request], num_steps: int) -> bool:
        longest = max((len(r.tokens) for r in requests), default=0)
        end = longest + num_steps - 1
        pages = -(-end // self.manager.page_size)
        if end > MAX_SEQ_LEN:
            return True
        return bool(requests) and pages > self.manager.total_num_pages

    # What a loop does.

    @rule(prompt=PROMPT, salt=SALT)
    def claim(self, prompt, salt) -> None:
        if len(self.requests) == MAX_BATCH_SIZE:
            self.release(self.requests[0])
        request = Request(prompt, cache_salt=salt)
        self.manager.external_claim(request.request_id)
        self.requests.append(request)
        self.committed[request.request_id] = 0

    @rule(prompt=PROMPT, salt=SALT, num_steps=STEPS, stays=st.booleans())
    def serve(self, prompt, salt, num_steps, stays) -> None:
        self.claim(prompt, salt)
        request = self.requests[-1]
        self.compute([request], num_steps, [num_steps], [0, 0, 1, 0], True)
        if not stays:
            self.release(request)

    def draw_request(self, data) -> Request:
        if not self.requests:
            self.claim([0] * 9, None)
        return data.draw(st.sampled_from(self.requests))

    @rule(prompt=PROMPT, salt=SALT, size=st.integers(1, 9), num_steps=STEPS)
    def admit_in_chunks(self, prompt, salt, size, num_steps) -> None:
        self.claim(prompt, salt)
        request = self.requests[-1]
        if size < request.tokens.active_length:
            request.tokens.chunk(size)
        self.try_to_reserve(request, num_steps)

    @rule(data=st.data())
    def chunk(self, data) -> None:
        tokens = self.draw_request(data).tokens
        if tokens.active_length > 1:
            tokens.chunk(data.draw(st.integers(1, tokens.active_length - 1)))

    @rule(data=st.data())
    def adopt(self, data) -> None:
        request = self.draw_request(data)
        before, findable = (
            request.tokens.processed_length,
            self.findable(request),
        )
        active = request.tokens.active_length
        hit = self.manager.adopt_prefix(request)
        assert hit == request.tokens.processed_length - before
        assert 1 <= request.tokens.active_length <= active
        self.saw_hit(request, before, findable)

    @rule(data=st.data(), num_steps=STEPS)
    def reserve(self, data, num_steps) -> None:
        self.try_to_reserve(self.draw_request(data), num_steps)

    def try_to_reserve(self, request: Request, num_steps: int) -> None:
        manager = self.manager
        state = self.snapshot()
        before, findable = (
            request.tokens.processed_length,
            self.findable(request),
        )
        if self.too_much([request], num_steps):
            with pytest.raises((SequenceTooLongError, RequestTooLargeError)):
                manager.maybe_reserve(request, num_steps)
            assert self.snapshot() == state
            return
        if not manager.maybe_reserve(request, num_steps):
            event("refused")
            assert self.snapshot() == state
            return
        self.saw_hit(request, before, findable)
        end = request.tokens.current_position + num_steps - 1
        held = len(manager.get_req_blocks(request.request_id))
        assert held * manager.page_size >= end
        state = self.snapshot()
        assert manager.maybe_reserve(request, num_steps)
        assert self.snapshot() == state

    @rule(
        data=st.data(),
        num_steps=STEPS,
        updates=st.lists(STEPS, min_size=4, max_size=4),
        new_tokens=st.lists(TOKEN, min_size=4, max_size=4),
        commits=st.sampled_from([True, True, False]),
    )
    def run(self, data, num_steps, updates, new_tokens, commits) -> None:
        chosen = data.draw(st.sets(st.integers(0, MAX_BATCH_SIZE - 1)))
        batch = [r for i, r in enumerate(self.requests) if i in chosen]
        if data.draw(st.booleans()):
            batch.reverse()
        self.compute(batch, num_steps, updates, new_tokens, commits)

    def compute(self, batch, num_steps, updates, new_tokens, commits) -> None:
        if not self.fetch_and_run(batch, num_steps):
            return
        table = self.inputs.lookup_table.to_numpy()
        starts = [request.tokens.current_position for request in batch]
        for request, most in zip(batch, updates, strict=False):
            few = request.tokens.actively_chunked
            for token in new_tokens[: 1 if few else min(most, num_steps)]:
                request.update(token)
        self.oracle.note(batch, table, starts)
        if commits:
            self.commit(batch)

    def fetch_and_run(self, batch, num_steps) -> bool:
        state = self.snapshot()
        before = [request.tokens.processed_length for request in batch]
        findable = [
            self.findable(request) if self.lacks(request, num_steps) else 0
            for request in batch
        ]
        lacking = any(self.lacks(request, num_steps) for request in batch)
        try:
            (self.inputs,) = self.manager.fetch(batch, num_steps)
        except (InsufficientPagesError, SequenceTooLongError) as error:
            assert self.snapshot() == state
            never = isinstance(
                error, SequenceTooLongError | RequestTooLargeError
            )
            assert never == self.too_much(batch, num_steps)
            assert lacking or never
            event("short")
            return False
        for request, start, most in zip(batch, before, findable, strict=True):
            self.saw_hit(request, start, most)
        self.oracle.run(batch, self.inputs, num_steps=num_steps)
        return True

    def lacks(self, request: Request, num_steps: int) -> bool:
        held = len(self.manager.get_req_blocks(request.request_id))
        end = request.tokens.current_position + num_steps - 1
        return end > held * self.manager.page_size

    def commit(self, batch: list[Request]) -> None:
        self.manager.step(batch)
        size = self.manager.page_size
        for request in batch if self.caching else []:
            full = request.tokens.processed_length // size * size
            self.committed[request.request_id] = full
            self.trie.update(
                self.key(request, end) for end in range(size, full + 1, size)
            )

    @rule(data=st.data())
    def step(self, data) -> None:
        self.commit([self.draw_request(data)])

    @rule(data=st.data())
    def leave(self, data) -> None:
        self.release(self.draw_request(data))

    def release(self, request: Request) -> None:
        self.manager.release(request.request_id)
        self.requests.remove(request)
        assert not self.manager.contains(request.request_id)

    @rule(data=st.data())
    def preempt(self, data) -> None:
        request = self.draw_request(data)
        self.manager.release(request.request_id)
        tokens = request.tokens
        if tokens.actively_chunked:
            tokens.advance_chunk()
        tokens.rewind_processing(tokens.processed_length)
        self.manager.external_claim(request.request_id)
        self.committed[request.request_id] = 0

    @rule()
    def reset_prefix_cache(self) -> None:
        self.manager.reset_prefix_cache()
        self.is_trie_exact = False

    @invariant()
    def counts_add_up(self) -> None:
        manager = self.manager
        held = {
            page
            for request in self.requests
            for page in manager.get_req_blocks(request.request_id)
        }
        assert manager.num_free_blocks + len(held) == manager.total_num_pages
        assert manager.metrics.cache_tokens == self.cache_tokens
        share = len(held) / manager.total_num_pages
        assert manager.used_blocks_pct == pytest.approx(share)


ManagerMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40
)
TestManagerMachine = ManagerMachine.TestCase
