"""Forks, truncations, parts and pins, in any order, in real bytes."""

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from byte_loop import ByteLoop
from byte_oracle import words
from kvcache import InsufficientPagesError, Request
from kvcache.core.digest import sha256_digest
from kvcache.errors import PinLimitError, RequestStateError
from kvcache.manager import Pin
from managers import make, pages

MAX_BATCH_SIZE = 5
LONGEST = 40
TOKEN = st.sampled_from([0, 0, 0, 0, 1])  # Prefixes are often equal.
PROMPT = st.lists(TOKEN, min_size=1, max_size=14)
SALT = st.sampled_from([None, None, None, ""])


def collide(parent: bytes, content: bytes) -> bytes:
    """A digest that says the same of everything."""
    del parent, content
    return b""


class SharingMachine(RuleBasedStateMachine):
    """A manager beside a model that writes bytes and checks all of them."""

    @initialize(
        num_pages=st.integers(3, 16) | st.just(100),
        page_size=st.sampled_from([1, 2, 3, 4, 4, 5]),
        min_partial=st.sampled_from([None, 1, 1, 2]),
        digest=st.sampled_from([None, None, sha256_digest, collide]),
        caching=st.sampled_from([True, True, True, False]),
    )
    def start(self, num_pages, page_size, min_partial, digest, caching) -> None:
        is_part = min_partial is not None and min_partial < page_size
        self.manager = make(
            num_pages,
            page_size,
            max_batch_size=MAX_BATCH_SIZE,
            caching=caching,
            min_partial_hit=min_partial if is_part else None,
            digest=digest,
            max_pins=3,
        )
        self.loop = ByteLoop(self.manager)
        self.requests: list[Request] = []
        self.pins: list[tuple[Pin, list[int], int]] = []

    def draw(self, data) -> Request:
        if not self.requests:
            self.claim([0] * 9, None)
        return data.draw(st.sampled_from(self.requests))

    def room(self) -> None:
        if len(self.requests) == MAX_BATCH_SIZE:
            self.release(self.requests[0])

    def snapshot(self) -> Any:
        manager = self.manager
        rows = [
            (
                r.tokens.processed_length,
                r.tokens.active_length,
                r.tokens.actively_chunked,
                pages(manager, r),
            )
            for r in self.requests
        ]
        order = manager._replicas.members[0].core.eviction_order()
        return rows, order, manager.metrics

    @rule(prompt=PROMPT, salt=SALT)
    def claim(self, prompt, salt) -> None:
        self.room()
        request = Request(prompt, cache_salt=salt)
        self.manager.external_claim(request.request_id)
        self.requests.append(request)

    @rule(prompt=PROMPT, salt=SALT, stays=st.booleans())
    def serve(self, prompt, salt, stays) -> None:
        self.claim(prompt, salt)
        request = self.requests[-1]
        told = [report.num_hit for report in self.manager.explain(request)]
        is_small = len(told) <= self.manager.total_num_pages
        if is_small and self.manager.maybe_reserve(request):
            size, hit = self.manager.page_size, request.tokens.processed_length
            whole = sum(count for count in told if count == size)
            # Parts are not copied where pages are short.
            assert hit in (sum(told), whole)
            if self.manager.total_num_pages == 100:
                assert hit == sum(told)
        self.compute([request], [0], commits=True)
        if not stays:
            self.release(request)

    @rule(data=st.data())
    def chunk(self, data) -> None:
        tokens = self.draw(data).tokens
        if tokens.active_length > 1:
            tokens.chunk(data.draw(st.integers(1, tokens.active_length - 1)))

    @rule(data=st.data(), num_steps=st.integers(1, 3))
    def reserve(self, data, num_steps) -> None:
        request, before = self.draw(data), self.snapshot()
        start = request.tokens.processed_length
        try:
            if not self.manager.maybe_reserve(request, num_steps):
                assert self.snapshot() == before
        except InsufficientPagesError:
            assert self.snapshot() == before
        if (request.tokens.processed_length - start) % self.manager.page_size:
            event("part")

    @rule(
        chosen=st.sets(st.integers(0, MAX_BATCH_SIZE - 1)),
        new_tokens=st.lists(TOKEN, min_size=5, max_size=5),
        commits=st.sampled_from([True, True, False]),
    )
    def run(self, chosen, new_tokens, commits) -> None:
        batch = [r for i, r in enumerate(self.requests) if i in chosen]
        self.compute(batch, new_tokens, commits=commits)

    def compute(self, batch, new_tokens, *, commits) -> None:
        batch = [r for r in batch if len(r.tokens) < LONGEST]
        before = self.snapshot()
        try:
            self.loop.run(*batch)
        except InsufficientPagesError:
            assert self.snapshot() == before
            return
        for request, token in zip(batch, new_tokens, strict=False):
            request.update(token)
        if commits:
            self.manager.step(batch)
        self.look_at_all()

    def look_at_all(self) -> None:
        """Looks at what every request has computed, not the batch alone."""
        (inputs,) = self.manager.fetch([])
        pool = inputs.blocks.to_numpy().view(np.uint32)
        size = self.manager.page_size
        for request in self.requests:
            held = pages(self.manager, request)
            for position in range(request.tokens.processed_length):
                slot = pool[held[position // size], :, :, position % size]
                wanted = words(request, position, 0, slot)
                assert (slot == wanted).all(), f"position {position}"

    @rule(data=st.data(), prompt=PROMPT, more=PROMPT, commits=st.booleans())
    def branch(self, data, prompt, more, commits) -> None:
        """A fork whose both sides go on at once, in any order."""
        self.claim(prompt, None)
        parent = self.requests[-1]
        self.compute([parent], [0], commits=commits)
        self.room()
        shared = parent.tokens.processed_length
        if shared < len(parent.tokens):  # Otherwise both may write the same.
            more = [1 - int(parent.tokens.all[shared]), *more[:2]]
        branch = self.fork_off(
            parent, data, more, whole=data.draw(st.booleans())
        )
        both = [r for r in (parent, branch) if r in self.requests]
        for _ in range(data.draw(st.integers(1, 6))):
            order = data.draw(st.permutations(both))
            if data.draw(st.booleans()):
                self.compute(order, [0, 1], commits=commits)
            else:
                self.compute(order[:1], [1], commits=commits)

    @rule(data=st.data(), more=PROMPT, whole=st.booleans())
    def fork(self, data, more, whole) -> None:
        self.room()
        self.fork_off(self.draw(data), data, more, whole=whole)

    def fork_off(self, parent, data, more, *, whole) -> Request:
        end = parent.tokens.processed_length
        length = None if whole else data.draw(st.integers(0, end))
        shared = end if length is None else length
        branch = Request(
            [*parent.tokens.all[:shared].tolist(), *more],
            cache_salt=parent.cache_salt,
        )
        self.manager.fork(parent, branch, length=length)
        assert branch.tokens.processed_length == shared
        held = pages(self.manager, branch)
        assert held == pages(self.manager, parent)[: len(held)]
        assert len(held) == -(-shared // self.manager.page_size)
        self.requests.append(branch)
        event("fork")
        return branch

    @rule(data=st.data())
    def misfork(self, data) -> None:
        parent, before = self.draw(data), self.snapshot()
        end = parent.tokens.processed_length
        if end and len(self.requests) < MAX_BATCH_SIZE:
            tokens = parent.tokens.all[: end + 1].copy()
            tokens[data.draw(st.integers(0, end - 1))] += 5
            branch = Request(tokens, cache_salt=parent.cache_salt)
            with pytest.raises(RequestStateError, match="begin with"):
                self.manager.fork(parent, branch)
            assert self.snapshot() == before

    @rule(data=st.data(), rewinds=st.booleans(), edits=st.booleans())
    def truncate(self, data, rewinds, edits) -> None:
        request = self.draw(data)
        tokens = request.tokens
        kept = data.draw(st.integers(0, tokens.processed_length))
        if rewinds:
            tokens.rewind_processing(tokens.processed_length - kept)
        free = self.manager.num_free_blocks
        self.manager.truncate(request, None if rewinds else kept)
        assert tokens.processed_length == kept
        held = len(pages(self.manager, request))
        assert held == -(-kept // self.manager.page_size)
        assert self.manager.num_free_blocks >= free
        if edits:
            tokens._array[kept : len(tokens)] = data.draw(TOKEN)
        if tokens.active_length > 1 and data.draw(st.booleans()):
            tokens.chunk(data.draw(st.integers(1, tokens.active_length - 1)))
        self.compute([request], [0], commits=True)
        event("truncated")

    @rule(data=st.data())
    def rewind(self, data) -> None:
        """A window that goes back too far is refused, and changes nothing."""
        request = self.draw(data)
        tokens = request.tokens
        back = data.draw(st.integers(0, tokens.processed_length))
        tokens.rewind_processing(back)
        before = self.snapshot()
        try:
            if not self.manager.maybe_reserve(request):
                tokens.skip_processing(back)
        except RequestStateError:
            assert self.snapshot() == before
            tokens.skip_processing(back)
        except InsufficientPagesError:
            tokens.skip_processing(back)
        else:
            self.compute([request], [0], commits=False)

    @rule(data=st.data())
    def leave(self, data) -> None:
        self.release(self.draw(data))

    def release(self, request: Request) -> None:
        self.manager.release(request.request_id)
        self.requests.remove(request)

    @rule(data=st.data(), priority=st.sampled_from([0, 35, 50, 100]))
    def keep(self, data, priority) -> None:
        self.manager.set_retention(self.draw(data), priority=priority)

    @rule(data=st.data())
    def pin(self, data) -> None:
        request, before = self.draw(data), self.snapshot()
        try:
            pin = self.manager.pin(request)
        except PinLimitError:
            assert self.snapshot() == before
            event("too many pins")
            return
        held = pages(self.manager, request)[: pin.num_pages]
        self.pins.append((pin, held, self.checksum(held)))
        if held:
            event("pinned")

    @rule(data=st.data())
    def unpin(self, data) -> None:
        if self.pins:
            place = data.draw(st.integers(0, len(self.pins) - 1))
            self.manager.unpin(self.pins.pop(place)[0])

    def checksum(self, held: list[int]) -> int:
        (inputs,) = self.manager.fetch([])
        return zlib.crc32(inputs.blocks.to_numpy()[held])

    @rule()
    def reset_prefix_cache(self) -> None:
        self.manager.reset_prefix_cache()

    @invariant()
    def counts_add_up(self) -> None:
        manager = self.manager
        held = {p for r in self.requests for p in pages(manager, r)}
        pinned = {page for _, kept, _ in self.pins for page in kept}
        assert manager.num_pinned_blocks == len(pinned)
        assert 2 * len(pinned) <= manager.total_num_pages
        held |= pinned
        for _, kept, checksum in self.pins:
            assert self.checksum(kept) == checksum
        assert manager.num_free_blocks + len(held) == manager.total_num_pages


SharingMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40
)
TestSharingMachine = SharingMachine.TestCase
