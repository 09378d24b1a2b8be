"""Every page of every row, through whatever an owner of a core may do."""

from functools import partial
from math import inf, nan

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from core_owner import TOKENS, Owner, Seq
from core_twins import batch_of, ints, make_twins
from kvcache.errors import (
    ClaimError,
    InsufficientPagesError,
    PageStateError,
    RequestStateError,
    RetentionError,
    UnknownRequestError,
)

NUM_SEQUENCES = 4
SPACES = st.sampled_from([b"", b"", b"", b"a"])
MOST = st.sampled_from([None, None, None, 0, 1, 2])
MIN_PARTIAL = st.sampled_from([None, 1, 1, 2, 3])


class CoreMachine(RuleBasedStateMachine):
    """Cores beside a model that knows what every slot must hold."""

    @initialize(
        num_pages=st.integers(1, 14) | st.integers(4, 8),
        page_size=st.integers(1, 4),
        num_host_pages=st.sampled_from([0, 1, 4, 6, 6]),
        caching=st.sampled_from([True, True, True, True, False]),
        collides=st.booleans(),
        prompts=st.lists(TOKENS, min_size=2, max_size=8),
    )
    def start(
        self, num_pages, page_size, num_host_pages, caching, collides, prompts
    ) -> None:
        self.core = make_twins(
            num_pages,
            page_size,
            NUM_SEQUENCES,
            collides=collides,
            enable_prefix_caching=caching,
            num_host_pages=num_host_pages,
        )
        self.owner = Owner(self.core)
        self.collides = collides
        self.now = 0.0
        for prompt in prompts:
            self.serve(b"", prompt, False, None)

    def draw_seq(self, data) -> Seq:
        if not self.owner.seqs:
            self.claim(b"", [0] * 9)
        return data.draw(st.sampled_from(self.owner.seqs))

    def draw_batch(self, data) -> list[Seq]:
        self.draw_seq(data)
        some = st.lists(
            st.sampled_from(self.owner.seqs), min_size=1, unique=True
        )
        return data.draw(some, label="batch")

    # What an owner does.

    @rule(space=SPACES, tokens=TOKENS)
    def claim(self, space, tokens) -> None:
        if len(self.owner.seqs) == NUM_SEQUENCES:
            self.owner.raises(ClaimError, "claim", space)
            self.owner.raises(ClaimError, "fork", self.owner.seqs[0].id, 0)
            self.owner.release(self.owner.seqs[0])
        self.owner.claim(space, tokens)

    @rule(space=SPACES, tokens=TOKENS, stays=st.booleans(), partial=MIN_PARTIAL)
    def serve(self, space, tokens, stays, partial) -> None:
        self.claim(space, tokens)
        seq = self.owner.seqs[-1]
        if self.owner.take([seq], [99], num_steps=1, min_partial=partial):
            self.owner.write(seq, seq.end)
            self.owner.commit([seq])
        if not stays:
            self.owner.release(seq)

    @rule(data=st.data())
    def forget_page(self, data) -> None:
        core = self.owner.core
        pages = core.num_pages + core.num_host_pages
        self.owner.forget(data.draw(st.integers(0, pages - 1)))

    @rule(data=st.data(), max_onload=MOST)
    def adopt(self, data, max_onload) -> None:
        batch = self.draw_batch(data)
        self.owner.take(batch, [1] * len(batch), max_onload=max_onload)

    @rule(
        data=st.data(),
        active=st.lists(
            st.integers(1, 9), min_size=NUM_SEQUENCES, max_size=NUM_SEQUENCES
        ),
        num_steps=st.integers(1, 3),
        min_partial=MIN_PARTIAL,
        max_onload=MOST,
        loses=st.sampled_from([False, False, True]),
        writes=st.sampled_from([True, True, False]),
    )
    def reserve(self, data, active, writes, **options) -> None:
        batch = self.draw_batch(data)
        if self.owner.take(batch, active, **options) and writes:
            for seq in batch:
                self.owner.write(seq, seq.end)
            self.owner.commit(batch)

    @rule(data=st.data(), some=TOKENS)
    def compute(self, data, some) -> None:
        seq = self.draw_seq(data)
        if seq.processed < len(seq.tokens) < seq.end:
            seq.tokens += some[: seq.end - len(seq.tokens)]
        end = data.draw(st.integers(seq.processed, max(seq.end, seq.processed)))
        self.owner.write(seq, end)

    @rule(data=st.data())
    def step(self, data) -> None:
        self.owner.commit(self.draw_batch(data))

    @rule(data=st.data())
    def leave(self, data) -> None:
        self.owner.release(self.draw_seq(data))

    @rule(data=st.data(), some=TOKENS)
    def fork(self, data, some) -> None:
        seq = self.draw_seq(data)
        if len(self.owner.seqs) == NUM_SEQUENCES:
            self.owner.release(next(s for s in self.owner.seqs if s is not seq))
        processed = data.draw(st.integers(0, seq.processed), label="processed")
        self.owner.fork(seq, processed, some)

    @rule(data=st.data(), length=st.integers(0, 12), some=TOKENS)
    def truncate(self, data, length, some) -> None:
        seq = self.draw_seq(data)
        if length < seq.processed:
            seq.tokens = seq.tokens[:length] + some
        self.owner.truncate_to(seq, length)

    @rule(data=st.data(), length=st.integers(0, 12), some=TOKENS)
    def rewind(self, data, length, some) -> None:
        """Goes back without a word: the next reservation may refuse."""
        seq = self.draw_seq(data)
        if length < seq.processed:
            seq.tokens = seq.tokens[:length] + some
            seq.processed = seq.end = length
            seq.may_be_refused = True
            self.owner.is_exact = False

    # How long pages stay.

    @rule(
        data=st.data(),
        priority=st.integers(0, 100) | st.sampled_from([0, 35, 36, 60]),
        lasts=st.sampled_from([inf, 0.0, 1.0, 2.0, 5.0]),
    )
    def set_retention(self, data, priority, lasts) -> None:
        seq = self.draw_seq(data)
        expires = self.now + lasts if priority > 35 else 0.0
        if priority > 35 and not expires:
            expires = 1.0
        self.core.set_retention(seq.id, priority=priority, expires=expires)

    @rule(seconds=st.sampled_from([-1.0, 0.5, 1.0, 1.0, 3.0]))
    def tick(self, seconds) -> None:
        self.core.tick(self.now + seconds)
        self.now = max(self.now, self.now + seconds)

    @rule()
    def forget_cached(self) -> None:
        self.core.forget_cached()
        assert self.core.num_cached == self.core.num_host_cached == 0
        self.owner.is_exact = False

    @rule(data=st.data())
    def evict(self, data) -> None:
        cached = self.core.num_cached
        count = data.draw(st.integers(0, cached + 1), label="evicted")
        self.owner.raises(PageStateError, "evict", -1)
        if count > cached:
            self.owner.raises(InsufficientPagesError, "evict", count)
        else:
            self.owner.evict(count)

    @rule(data=st.data(), column=st.integers(0, 5))
    def drop(self, data, column) -> None:
        self.core.drop(self.draw_seq(data).id, column)
        for seq in self.owner.seqs:
            seq.may_be_refused = True
        self.owner.is_exact = False

    # What can be looked at.

    @rule(space=SPACES, tokens=TOKENS)
    def look(self, space, tokens) -> None:
        found = self.core.probe(space, ints(tokens))
        content = (space, *tokens)
        full = len(found.pages) * self.owner.size
        self.owner.model.check(found.pages.tolist(), full, content)
        assert (
            0 <= found.partial <= min(self.owner.size - 1, len(tokens) - full)
        )
        if self.collides:
            return
        times = self.core.evicted_at(space, ints(tokens))
        assert len(times) == len(tokens) // self.owner.size
        for place, time in enumerate(times.tolist(), 1):
            if (
                content[: place * self.owner.size + 1]
                not in self.owner.committed
            ):
                assert np.isnan(time)
            assert np.isnan(time) or time <= self.now

    # What must be refused.

    @rule(data=st.data(), unknown=st.sampled_from([-1, 4, 99]))
    def name_a_stranger(self, data, unknown) -> None:
        free = set(range(NUM_SEQUENCES)) - {seq.id for seq in self.owner.seqs}
        stranger = data.draw(st.sampled_from([unknown, *sorted(free)]))
        batch = batch_of((stranger, 0, 1, [0, 0]))
        calls = {
            "release": (stranger,),
            "fork": (stranger, 0),
            "truncate": (stranger, 0),
            "set_retention": (stranger,),
            "drop": (stranger, 0),
            "adopt": (batch,),
        }
        raises = partial(self.owner.raises, UnknownRequestError)
        for name, arguments in calls.items():
            raises(name, *arguments)
        raises("reserve", batch, num_steps=1)
        if self.core.enable_prefix_caching:
            raises("commit", batch)

    @rule(data=st.data())
    def ask_for_too_much(self, data) -> None:
        seq, raises = self.draw_seq(data), self.owner.raises
        held = len(self.owner.row(seq)) * self.owner.size
        raises(RequestStateError, "fork", seq.id, -1)
        raises(RequestStateError, "fork", seq.id, held + 1)
        raises(RequestStateError, "truncate", seq.id, -1)
        raises(RequestStateError, "drop", seq.id, -1)
        self.owner.truncate_to(seq, seq.processed)
        batch = batch_of((seq.id, seq.processed, 1, [*seq.tokens, 0]))
        many = {"num_steps": 16 * self.owner.size}
        raises(InsufficientPagesError, "reserve", batch, **many)
        for bound in ({"min_partial": 0}, {"max_onload": -1}):
            raises(RequestStateError, "reserve", batch, num_steps=1, **bound)
        if self.core.enable_prefix_caching:
            end = held + self.owner.size
            far = batch_of((seq.id, end, 1, [0] * end))
            raises(RequestStateError, "commit", far)

    @rule(data=st.data(), wrong=st.sampled_from([(-1, 0.0), (101, 9.0)]))
    def retain_what_cannot_be(self, data, wrong) -> None:
        seq, raises = self.draw_seq(data).id, self.owner.raises
        for priority, expires in (wrong, (36, 0.0), (35, 1.0), (36, nan)):
            retention = {"priority": priority, "expires": expires}
            raises(RetentionError, "set_retention", seq, **retention)
        raises(RetentionError, "tick", inf)

    @rule(data=st.data(), token=st.sampled_from([2**31, -(2**31) - 1]))
    def commit_a_wide_token(self, data, token) -> None:
        seq = self.draw_seq(data)
        column = seq.processed // self.owner.size
        committed = self.core.cores[0]._books.seqs.committed[seq.id]
        if column > committed and self.core.enable_prefix_caching:
            tokens = list(seq.tokens)
            tokens[column * self.owner.size - 1] = token
            batch = batch_of((seq.id, seq.processed, 1, tokens))
            self.owner.raises(RequestStateError, "commit", batch)

    # What must hold after each of them.

    @invariant()
    def books_agree(self) -> None:
        self.owner.check()


CoreMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40
)
TestCoreMachine = CoreMachine.TestCase
