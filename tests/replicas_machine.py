"""Replicas and shards through whatever a loop may do, seen in real bytes."""

import zlib
from typing import Any

import pytest
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from max.driver import CPU

from byte_oracle import ByteOracle
from kvcache import InsufficientPagesError, KVCacheParams, Request
from kvcache.errors import RequestTooLargeError, SequenceTooLongError
from kvcache.manager import PagedKVCacheManager
from kvcache.manager.routing import BALANCE
from managers import with_host

MAX_SEQ_LEN = 24
PER_REPLICA = 3
HOST = CPU()

TOKEN = st.sampled_from([0, 0, 0, 0, 0, 1])  # Prefixes are often equal.
PROMPT = st.builds(
    lambda length, other: [int(place == other) for place in range(length)],
    length=st.integers(1, 16),
    other=st.integers(0, 16),
)
SALT = st.sampled_from([None, None, None, ""])
STEPS = st.integers(1, 3)


def collide(parent: bytes, content: bytes) -> bytes:
    """A digest that says the same of everything."""
    del parent, content
    return b""


class ReplicasMachine(RuleBasedStateMachine):
    """A manager beside a model that writes, and a trie for each replica."""

    num_host_pages = 0
    """Pages of the host that the manager has, where there is caching."""
    rates: dict[str, float] = {}  # noqa: RUF012  (nobody changes it)
    """What the manager is told of loads and prefills."""

    @initialize(
        replicas=st.sampled_from([1, 2, 2, 3]),
        shards=st.integers(1, 2),
        num_pages=st.integers(3, 12) | st.just(100),
        page_size=st.integers(1, 4),
        digest=st.sampled_from([None, collide]),
        caching=st.sampled_from([True, True, True, True, False]),
        copies=st.sampled_from([True, True, True, False]),
    )
    def start(
        self, replicas, shards, num_pages, page_size, digest, caching, copies
    ) -> None:
        params = KVCacheParams(
            "float32",
            2,
            1,
            enable_prefix_caching=caching,
            page_size=page_size,
            n_devices=replicas * shards,
            data_parallel_degree=replicas,
        )
        if caching:
            params = with_host(params, self.num_host_pages, num_layers=1)
        self.manager = PagedKVCacheManager(
            params,
            PER_REPLICA * replicas,
            MAX_SEQ_LEN,
            1,
            [HOST] * params.n_devices,
            None,
            replicas * num_pages * params.bytes_per_page(1),
            page_size=page_size,
            enable_runtime_checks=True,
            digest=digest,
            copy_prefixes_across_replicas=copies,
            **self.rates,
        )
        self.copies = self.manager.copy_prefixes_across_replicas
        assert self.copies == (copies and caching and replicas > 1)
        self.num_pages, self.caching = num_pages, caching
        self.oracle = ByteOracle(page_size)
        self.pools = [each.blocks for each in self.manager.fetch([])]
        self.requests: list[Request] = []
        self.committed: dict[object, int] = {}
        self.tries: list[set[Any]] = [set() for _ in range(replicas)]
        self.is_trie_exact = True

    # What should be found, and what should be unchanged.

    def home(self, request: Request) -> int:
        return self.manager.get_replica(request)

    def snapshot(self) -> object:
        manager = self.manager
        rows = [
            (
                r.tokens.all.tolist(),
                r.tokens.processed_length,
                r.tokens.active_length,
                r.tokens.actively_chunked,
                manager.get_req_blocks(r.request_id),
            )
            for r in self.requests
        ]
        members = manager._replicas.members
        orders = [m.core.eviction_order() for m in members]
        # A new view each time: it waits for the copies that were issued.
        contents = [zlib.crc32(pool.to_numpy()) for pool in self.pools]
        return rows, orders, contents, manager.metrics

    def key(self, request: Request, end: int) -> tuple[Any, ...]:
        return (request.cache_salt, *request.tokens.all[:end].tolist())

    def cached_end(self, request: Request, replica: int) -> int:
        """Returns how far a trie knows a request, but for its last token."""
        size, end = self.manager.page_size, 0
        while end + size < len(request.tokens) and (
            self.key(request, end + size) in self.tries[replica]
        ):
            end += size
        return end

    def findable(self, request: Request, *, copies: bool) -> int:
        """Returns the tokens to be found beyond the processed ones."""
        start = request.tokens.processed_length
        if start != self.committed[request.request_id] or not self.caching:
            return 0
        replicas = range(self.manager.num_replicas)
        places = replicas if copies else [self.home(request)]
        best = max(self.cached_end(request, place) for place in places)
        return max(0, best - start)

    def saw_hit(self, request: Request, before: int, findable: int) -> None:
        hit = request.tokens.processed_length - before
        if self.manager.metrics.evicted_pages:
            event("evicted")
            self.is_trie_exact = False
        if self.is_trie_exact and self.num_pages == 100:
            assert hit == findable
        assert hit <= findable
        if hit:
            event("hit")
            self.note_cached(request, before + hit)

    def note_cached(self, request: Request, end: int) -> None:
        self.committed[request.request_id] = end
        size = self.manager.page_size
        self.tries[self.home(request)].update(
            self.key(request, stop) for stop in range(size, end + 1, size)
        )

    def too_much(self, batch: list[Request], num_steps: int) -> bool:
        longest = max((len(r.tokens) for r in batch), default=0)
        end = longest + num_steps - 1
        pages = -(-end // self.manager.page_size)
        return end > MAX_SEQ_LEN or (bool(batch) and pages > self.num_pages)

    # What a loop does.

    @rule(prompt=PROMPT, salt=SALT, data=st.data())
    def claim(self, prompt, salt, data) -> None:
        manager = self.manager
        request = Request(prompt, cache_salt=salt)
        if len(self.requests) == manager.max_batch_size:
            self.release(self.requests[0])
        loads = self.loads()
        if data.draw(st.booleans()):
            state = self.snapshot()
            replica = manager.get_or_recommend_replica(request)
            assert self.snapshot() == state
            if min(loads) < PER_REPLICA <= loads[replica]:
                # Only if no other one has the pages either.
                replica = loads.index(min(loads))
            elif self.num_pages == 100:
                assert loads[replica] < min(loads) + BALANCE
        else:
            free = [i for i, load in enumerate(loads) if load < PER_REPLICA]
            replica = data.draw(st.sampled_from(free))
        manager.external_claim(request.request_id, replica)
        assert self.home(request) == replica
        self.requests.append(request)
        self.committed[request.request_id] = 0

    def loads(self) -> list[int]:
        homes = [self.home(request) for request in self.requests]
        return [homes.count(i) for i in range(self.manager.num_replicas)]

    @rule(prompt=PROMPT, salt=SALT, data=st.data(), stays=st.booleans())
    def serve(self, prompt, salt, data, stays) -> None:
        self.claim(prompt, salt, data)
        request = self.requests[-1]
        self.compute([request], 1, [0], True)
        if not stays:
            self.release(request)

    @rule(
        length=st.integers(6, 20),
        salt=SALT,
        data=st.data(),
        stays=st.booleans(),
        adopts=st.booleans(),
        size=st.integers(1, 20),
    )
    def repeat(self, length, salt, data, stays, adopts, size) -> None:
        """Serves a prompt on one replica and asks for it on another one."""
        self.serve([0] * length, salt, data, stays)
        self.claim([0] * length, salt, data)
        request = self.requests[-1]
        if size < request.tokens.active_length:
            request.tokens.chunk(size)
        if adopts:
            self.adopt_one(request)
        else:
            self.reserve_one(request, 1)
        self.compute([request], 1, [0], True)

    def draw_request(self, data) -> Request:
        if not self.requests:
            self.claim([0] * 9, None, data)
        request: Request = data.draw(st.sampled_from(self.requests))
        return request

    @rule(data=st.data())
    def chunk(self, data) -> None:
        tokens = self.draw_request(data).tokens
        if tokens.active_length > 1:
            tokens.chunk(data.draw(st.integers(1, tokens.active_length - 1)))

    @rule(data=st.data())
    def adopt(self, data) -> None:
        self.adopt_one(self.draw_request(data))

    def adopt_one(self, request: Request) -> None:
        before = request.tokens.processed_length
        findable = self.findable(request, copies=self.copies)
        copied = self.manager.metrics.copied_pages
        hit = self.manager.adopt_prefix(request)
        assert hit == request.tokens.processed_length - before
        self.saw_hit(request, before, findable)
        if self.manager.metrics.copied_pages > copied:
            event("copied by adopting")

    @rule(data=st.data(), num_steps=STEPS)
    def reserve(self, data, num_steps) -> None:
        self.reserve_one(self.draw_request(data), num_steps)

    def reserve_one(self, request: Request, num_steps: int) -> None:
        manager, state = self.manager, self.snapshot()
        before = request.tokens.processed_length
        findable = self.findable(request, copies=self.copies)
        if request.tokens.active_length == 1 and (
            not request.tokens.actively_chunked
        ):
            findable = self.findable(request, copies=False)
        copied = manager.metrics.copied_pages
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
        if manager.metrics.copied_pages > copied:
            event("copied by reserving")
        end = request.tokens.current_position + num_steps - 1
        held = len(manager.get_req_blocks(request.request_id))
        assert held * manager.page_size >= end

    @rule(
        data=st.data(),
        num_steps=STEPS,
        new_tokens=st.lists(TOKEN, min_size=3, max_size=3),
        commits=st.sampled_from([True, True, False]),
    )
    def run(self, data, num_steps, new_tokens, commits) -> None:
        chosen = data.draw(st.sets(st.integers(0, 8), max_size=9))
        batch = [r for i, r in enumerate(self.requests) if i in chosen]
        if data.draw(st.booleans()):
            batch.reverse()
        self.compute(batch, num_steps, new_tokens, commits)

    def compute(self, batch, num_steps, new_tokens, commits) -> None:
        inputs = self.fetch(batch, num_steps)
        if inputs is None:
            return
        starts = {}
        for request in batch:
            starts[request] = request.tokens.processed_length
            few = request.tokens.actively_chunked
            for token in new_tokens[: 1 if few else num_steps]:
                request.update(token)
        for rows, shards in self.by_replica(batch, inputs):
            spans = [range(starts[r], r.tokens.processed_length) for r in rows]
            self.oracle.write(rows, shards, spans)
        if commits:
            self.manager.step(batch)
            size = self.manager.page_size
            for request in batch if self.caching else []:
                full = request.tokens.processed_length // size * size
                self.note_cached(request, full)

    def fetch(self, batch, num_steps) -> Any:
        state = self.snapshot()
        before = [request.tokens.processed_length for request in batch]
        findable = [
            self.findable(r, copies=False) if self.lacks(r, num_steps) else 0
            for r in batch
        ]
        try:
            inputs = self.manager.fetch(batch, num_steps)
        except (InsufficientPagesError, SequenceTooLongError) as error:
            assert self.snapshot() == state
            never = isinstance(
                error, SequenceTooLongError | RequestTooLargeError
            )
            assert never == self.too_much(batch, num_steps)
            event("short")
            return None
        for request, start, most in zip(batch, before, findable, strict=True):
            self.saw_hit(request, start, most)
        for rows, shards in self.by_replica(batch, inputs):
            self.oracle.check(rows, shards)
        return inputs

    def by_replica(self, batch, inputs) -> Any:
        each = self.manager.devices_per_replica
        for replica in range(self.manager.num_replicas):
            rows = [r for r in batch if self.home(r) == replica]
            yield rows, inputs[replica * each : (replica + 1) * each]

    def lacks(self, request: Request, num_steps: int) -> bool:
        held = len(self.manager.get_req_blocks(request.request_id))
        end = request.tokens.current_position + num_steps - 1
        return end > held * self.manager.page_size

    @rule(data=st.data())
    def leave(self, data) -> None:
        self.release(self.draw_request(data))

    def release(self, request: Request) -> None:
        self.manager.release(request.request_id)
        self.requests.remove(request)

    @rule(data=st.data())
    def preempt(self, data) -> None:
        request = self.draw_request(data)
        replica = self.home(request)
        self.manager.release(request.request_id)
        tokens = request.tokens
        if tokens.actively_chunked:
            tokens.advance_chunk()
        tokens.rewind_processing(tokens.processed_length)
        self.manager.external_claim(request.request_id, replica)
        self.committed[request.request_id] = 0

    @rule()
    def reset_prefix_cache(self) -> None:
        self.manager.reset_prefix_cache()
        self.is_trie_exact = False

    @invariant()
    def counts_add_up(self) -> None:
        manager = self.manager
        held = {
            (self.home(request), page)
            for request in self.requests
            for page in manager.get_req_blocks(request.request_id)
        }
        assert manager.num_free_blocks + len(held) == manager.total_num_pages
        ordered = sorted(self.requests, key=self.home)
        splits = manager.get_data_parallel_splits(ordered).to_numpy().tolist()
        loads = self.loads()
        assert splits == [sum(loads[:i]) for i in range(len(loads) + 1)]
