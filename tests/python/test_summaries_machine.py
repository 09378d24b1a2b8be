"""Summaries through the whole life of a page, in real bytes."""

from typing import Any

import numpy as np
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from flaky_pools import FlakyCopies
from kvcache import InsufficientPagesError, Request
from kvcache.core.interface import Move
from kvcache.quantization import Quantization
from kvcache.spec import pages_for
from managers import make_replicas, pages
from summary_device import BLOCK_SIZE, SummaryDevice, summaries_of

PER_REPLICA = 4
LONGEST = 150
EDGE = st.integers(1, 7).flatmap(
    lambda blocks: st.integers(-1, 1).map(lambda by: blocks * BLOCK_SIZE + by)
)
LENGTH = st.integers(1, 110) | EDGE
PROMPT = st.builds(
    lambda length, other: [int(place == other) for place in range(length)],
    length=LENGTH,
    other=LENGTH,
)
SALT = st.sampled_from([None, None, None, "a"])
INT8 = {"dtype": "int8", "quantization": Quantization()}
EVENTS = (
    "cache_tokens",
    "partial_tokens",
    "copied_pages",
    "evicted_pages",
    "h2d_blocks_copied",
    "failed_loads",
    "failed_offloads",
)
KINDS: list[dict[str, Any]] = [{}, {}, INT8, {**INT8, "n_kv_heads": 4}]


class SummariesMachine(RuleBasedStateMachine):
    """A manager, and devices that summarise each block once it is whole."""

    @initialize(
        replicas=st.sampled_from([1, 1, 2]),
        shards=st.sampled_from([1, 1, 2]),
        room=st.sampled_from([1, 1, 1, 2, 6]),
        host_pages=st.sampled_from([0, 12, 12, 20]),
        page_size=st.sampled_from([16, 32, 32, 64]),
        min_partial=st.sampled_from([None, 1, 1, 9]),
        kind=st.sampled_from(KINDS),
    )
    def start(
        self,
        replicas,
        shards,
        room,
        host_pages,
        page_size,
        min_partial,
        kind,
    ) -> None:
        num_pages = room * pages_for(LONGEST, page_size)
        self.manager = make_replicas(
            replicas,
            shards,
            num_pages=num_pages,
            page_size=page_size,
            max_batch_size=PER_REPLICA * replicas,
            max_seq_len=LONGEST,
            host_pages=replicas * host_pages,
            min_partial_hit=min_partial,
            kind={"summaries": summaries_of(8), **kind},
        )
        inputs = self.manager.fetch([])
        self.devices = [
            SummaryDevice(self.manager.params, each, place % shards)
            for place, each in enumerate(inputs)
        ]
        for pools in self.manager._pools if host_pages else []:
            for shard in pools.shards:
                parts = shard.parts(num_pages, host_pages, is_on_host=True)
                for part in parts[-2:]:
                    part.to_numpy()[...] = np.nan
        self.flaky = FlakyCopies(self.manager)
        self.requests: list[Request] = []

    def home(self, request: Request) -> int:
        return self.manager.get_replica(request)

    def devices_of(self, replica: int) -> list[SummaryDevice]:
        each = self.manager.devices_per_replica
        return self.devices[replica * each : (replica + 1) * each]

    def draw(self, data) -> Request:
        if not self.requests:
            self.serve([0] * 40, None, data, True)
        request: Request = data.draw(st.sampled_from(self.requests))
        return request

    def free_replicas(self) -> list[int]:
        homes = [self.home(request) for request in self.requests]
        replicas = range(self.manager.num_replicas)
        return [i for i in replicas if homes.count(i) < PER_REPLICA]

    @rule(prompt=PROMPT, salt=SALT, data=st.data(), stays=st.booleans())
    def serve(self, prompt, salt, data, stays) -> None:
        """Computes a prompt, as far as the cache does not have it."""
        if not (free := self.free_replicas()):
            self.release(self.requests[0])
            free = self.free_replicas()
        request = Request(prompt, cache_salt=salt)
        replica = data.draw(st.sampled_from(free))
        self.manager.external_claim(request.request_id, replica)
        self.requests.append(request)
        self.reserve(request)
        self.look()
        self.compute([request])
        if not stays:
            self.release(request)

    def reserve(self, request: Request) -> None:
        try:
            self.manager.maybe_reserve(request)
        except InsufficientPagesError:
            event("too large")

    @rule(
        chosen=st.sets(st.integers(0, 2 * PER_REPLICA - 1), min_size=1),
        num_steps=st.integers(1, 3),
        turns=st.sampled_from([1, 1, 5, 17]),
        commits=st.sampled_from([True, True, False]),
    )
    def decode(self, chosen, num_steps, turns, commits) -> None:
        batch = [r for i, r in enumerate(self.requests) if i in chosen]
        for _ in range(turns):
            if not self.compute(batch, num_steps, commits=commits):
                return

    @rule(data=st.data())
    def chunk(self, data) -> None:
        tokens = self.draw(data).tokens
        if tokens.active_length > 1:
            tokens.chunk(data.draw(st.integers(1, tokens.active_length - 1)))

    def compute(
        self, batch: list[Request], num_steps: int = 1, *, commits: bool = True
    ) -> bool:
        batch = [r for r in batch if len(r.tokens) + num_steps <= LONGEST]
        try:
            inputs = self.manager.fetch(batch, num_steps)
        except InsufficientPagesError:
            event("short")
            return False
        starts = {}
        for request in batch:
            starts[request] = request.tokens.processed_length
            is_chunk = request.tokens.actively_chunked
            self.check_tables(request, batch, inputs)
            for token in [0] * (1 if is_chunk else num_steps):
                request.update(token)
        for request in batch:
            row = pages(self.manager, request)
            for device in self.devices_of(self.home(request)):
                device.compute(request, row, starts[request])
        if commits:
            self.manager.step(batch)
        return bool(batch)

    def check_tables(self, request, batch, inputs) -> None:
        """What graphs are told is what `get_req_blocks` says."""
        home = self.home(request)
        row = [r for r in batch if self.home(r) == home].index(request)
        each = self.manager.devices_per_replica
        held = pages(self.manager, request)
        for own in inputs[home * each : (home + 1) * each]:
            length = own.cache_lengths.to_numpy()[row]
            assert length == request.tokens.processed_length
            table = own.lookup_table.to_numpy()[row].tolist()
            assert table[: len(held)] == held

    @rule(data=st.data(), more=PROMPT, whole=st.booleans(), goes=st.booleans())
    def fork(self, data, more, whole, goes) -> None:
        parent = self.draw(data)
        while self.home(parent) not in self.free_replicas():
            others = [r for r in self.requests if r is not parent]
            home = self.home(parent)
            self.release(next(r for r in others if self.home(r) == home))
        end = parent.tokens.processed_length
        shared = end if whole else data.draw(st.integers(0, end))
        branch = Request(
            [*parent.tokens.all[:shared].tolist(), 9, *more][: LONGEST - 20],
            cache_salt=parent.cache_salt,
        )
        if len(branch.tokens) <= shared:
            return
        self.manager.fork(parent, branch, length=shared)
        self.requests.append(branch)
        if goes:
            order = data.draw(st.permutations([parent, branch]))
            self.compute(order[:1])
            self.compute(order)

    @rule(data=st.data(), edits=st.booleans(), goes=st.booleans())
    def truncate(self, data, edits, goes) -> None:
        """Goes back, to the middle of a page or a block, and on again."""
        request = self.draw(data)
        tokens = request.tokens
        kept = data.draw(st.integers(0, tokens.processed_length))
        self.manager.truncate(request, kept)
        if edits:
            tokens._array[kept : len(tokens)] = 5
        if tokens.active_length > 1 and data.draw(st.booleans()):
            tokens.chunk(data.draw(st.integers(1, tokens.active_length - 1)))
        self.look()
        if goes:
            self.compute([request])

    @rule(
        length=st.integers(66, 110),
        data=st.data(),
        others=st.integers(1, 3),
        breaks=st.sampled_from([None, None, None, Move.ONLOAD, Move.OFFLOAD]),
    )
    def come_back(self, length, data, others, breaks) -> None:
        """Serves a prompt once more after others took its pages."""
        self.flaky.breaks, prompt = breaks, [0] * length
        for request in list(self.requests):
            self.release(request)
        for salt in [None, "a", "b", "c"][: others + 1]:
            self.serve(prompt, salt, data, False)
        self.serve(prompt, None, data, True)
        self.flaky.breaks = None

    @rule(data=st.data())
    def move(self, data) -> None:
        """Moves a page to another one and back, as one who tidies up."""
        replica = self.home(self.draw(data))
        core = self.manager._replicas.members[replica].core
        blanks = self.blanks(replica)
        used = sorted({*range(core.num_pages)} - {*blanks})
        if not blanks or not used:
            return
        page, blank = data.draw(st.sampled_from(used)), blanks[0]
        pools = self.manager._pools[replica]
        for source, target in ((page, blank), (blank, page)):
            move = np.array([[Move.COPY, source, target]], np.uint32)
            assert not pools.carry_out(move).lost
            for device in self.devices_of(replica):
                device.poison([source])

    @rule(data=st.data())
    def leave(self, data) -> None:
        self.release(self.draw(data))

    def release(self, request: Request) -> None:
        self.manager.release(request.request_id)
        self.requests.remove(request)

    @rule()
    def reset_prefix_cache(self) -> None:
        self.manager.reset_prefix_cache()

    def blanks(self, replica: int) -> list[int]:
        """Pages that no one holds and no one finds."""
        core = self.manager._replicas.members[replica].core
        return core.eviction_order()[: core.num_free - core.num_cached]

    def look(self) -> None:
        """Compares each whole block's summary with the keys in the pages."""
        for replica in range(self.manager.num_replicas):
            blanks = self.blanks(replica)
            for device in self.devices_of(replica):
                device.poison(blanks)
        for request in self.requests:
            row = pages(self.manager, request)
            for device in self.devices_of(self.home(request)):
                device.check(request, row)

    @invariant()
    def summaries_are_those_of_the_keys(self) -> None:
        self.look()
        metrics = self.manager.metrics
        for name in EVENTS:
            if getattr(metrics, name):
                event(name)


SummariesMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=30
)
TestSummariesMachine = SummariesMachine.TestCase
