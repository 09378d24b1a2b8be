"""A hybrid cache, its two pools and a dict, through whatever a loop may do."""

import os
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from kvcache.core.making import CORES
from kvcache.errors import (
    InsufficientPagesError,
    PageStateError,
    RequestStateError,
)
from radix_model import Name, Page, RadixModel

torch = pytest.importorskip("torch")

from kvcache.pools import EvictResult, MambaRadixCache, RadixKey  # noqa: E402
from slot_pools import SlotPool, TrackSlots  # noqa: E402

PAGES = st.lists(st.integers(0, 1), max_size=5)
SPACES = st.sampled_from([None, None, "a"])


def make(num_pages: int = 8, page_size: int = 1) -> MambaRadixCache:
    pool, states = SlotPool(num_pages, page_size), TrackSlots(4)
    return MambaRadixCache(page_size, pool, states)


def insert(cache, tokens, state=None):
    value = cache.pool.alloc(len(tokens) // cache.page_size)
    key = RadixKey(tokens)
    return cache.insert(key, torch.tensor(value), mamba_value=state)


def test_a_prefix_is_offered_only_where_a_snapshot_is() -> None:
    cache = make()
    state = cache.mamba_pool.alloc_track_slot()
    insert(cache, [1, 2, 3, 4])
    result = cache.match_prefix(RadixKey([1, 2, 3, 4]))
    assert (result.prefix_len, result.mamba_branching_seqlen) == (0, 4)
    assert result.last_node == cache.root_node
    answer = insert(cache, [1, 2], torch.tensor([state]))
    assert (answer.prefix_len, answer.mamba_exist) == (2, False)
    result = cache.match_prefix(RadixKey([1, 2, 3, 9]))
    assert result.indices.tolist() == [1, 2]
    assert result.mamba_branching_seqlen == 3
    assert result.last_node.mamba_value.tolist() == [state]
    assert insert(cache, [1, 2], 0).mamba_exist  # The caller keeps slot 0.
    found = cache.match_prefix(RadixKey([1, 2]))
    assert found.mamba_branching_seqlen is None
    assert found.last_node.mamba_value.tolist() == [state]


def test_the_two_kinds_of_memory_are_counted_in_units_of_their_own() -> None:
    cache = make(page_size=2)
    take = cache.mamba_pool.alloc_track_slot
    insert(cache, [1, 1, 2, 2], take())
    node = insert(cache, [3, 3], take()).last_node
    assert (cache.mamba_evictable_size(), cache.evictable_size()) == (2, 6)
    cache.inc_lock_ref(node)
    assert (cache.mamba_protected_size(), cache.protected_size()) == (1, 2)
    assert cache.evict(0, 9) == EvictResult(0, 0, 1)
    assert cache.mamba_pool.freed == [3]
    assert cache.evict(9, 9) == EvictResult(4, 0, 0)
    cache.dec_lock_ref(node)
    assert cache.evict(1, 1) == EvictResult(2, 0, 1)
    assert cache.mamba_pool.freed == [3, 2]
    assert cache.mamba_evictable_size() == cache.total_size() == 0


def test_the_snapshot_that_was_used_longest_ago_goes_first() -> None:
    cache = make()
    first, second = (cache.mamba_pool.alloc_track_slot() for _ in range(2))
    insert(cache, [1], first)
    insert(cache, [2], second)
    cache.match_prefix(RadixKey([1]))
    cache.evict(0, 1)
    assert cache.mamba_pool.freed == [second]


def test_snapshots_that_go_with_their_pages_count() -> None:
    cache = make()
    for token in (1, 2, 3):
        insert(cache, [token], cache.mamba_pool.alloc_track_slot())
    assert cache.evict(1, 1) == EvictResult(1, 0, 1)
    assert cache.evict(1, 2) == EvictResult(1, 0, 2)


def test_a_snapshot_that_comes_under_a_lock_is_locked_with_the_next() -> None:
    cache = make()
    node = insert(cache, [1]).last_node
    cache.inc_lock_ref(node)
    insert(cache, [1], cache.mamba_pool.alloc_track_slot())
    assert cache.mamba_evictable_size() == 1
    cache.inc_lock_ref(node)
    assert cache.mamba_protected_size() == 1
    cache.dec_lock_ref(node)
    assert cache.mamba_protected_size() == 1
    cache.dec_lock_ref(node)
    assert (cache.mamba_protected_size(), cache.mamba_evictable_size()) == (
        0,
        1,
    )


@pytest.mark.parametrize(
    ("tokens", "state", "error", "says"),
    [
        ([1, 1, 2], 0, RequestStateError, "whole pages of 2 tokens before"),
        ([], 0, RequestStateError, "whole pages of 2 tokens before"),
        ([1, 1], torch.tensor([0, 1]), RequestStateError, "one integer"),
        ([1, 1], torch.tensor(0.5), RequestStateError, "one integer"),
        ([1, 1], -1, PageStateError, "state slot from 0"),
        ([1, 1], 3, PageStateError, "does not have, got 3"),
    ],
)
def test_snapshots_that_cannot_be_kept_change_nothing(
    tokens, state, error, says
) -> None:
    cache = make(page_size=2)
    insert(cache, [7, 7], cache.mamba_pool.alloc_track_slot())
    with pytest.raises(error, match=says):
        cache.insert(
            RadixKey(tokens),
            torch.tensor([4, 5, 6][: len(tokens)]),
            mamba_value=state,
        )
    assert (cache.total_size(), cache.mamba_evictable_size()) == (2, 1)


def test_reset_forgets_snapshots_and_frees_nothing() -> None:
    cache = make()
    node = insert(cache, [1], cache.mamba_pool.alloc_track_slot()).last_node
    cache.inc_lock_ref(node)
    cache.reset()
    assert (cache.mamba_protected_size(), cache.mamba_evictable_size()) == (
        0,
        0,
    )
    assert cache.match_prefix(RadixKey([1])).mamba_branching_seqlen is None
    assert cache.mamba_pool.freed == cache.pool.freed == []


class HybridMachine(RuleBasedStateMachine):
    """One cache and one model, which get the same calls."""

    @initialize(
        core=st.sampled_from(CORES),
        page_size=st.sampled_from([1, 2, 16]),
        num_pages=st.integers(2, 10),
    )
    def start(self, core, page_size, num_pages) -> None:
        self.pool = SlotPool(num_pages, page_size)
        self.states = TrackSlots(4)
        with mock.patch.dict(os.environ, KVCACHE_CORE=core):
            self.cache = MambaRadixCache(page_size, self.pool, self.states)
        self.model = RadixModel(page_size, num_pages)
        self.size = page_size
        self.snapshots: dict[Name, int] = {}
        """Slots by prefix, the first to go first."""
        self.locked: dict[Name, list] = {}
        self.locked_states: set[Name] = set()
        self.nodes: list[tuple[Name, Page, object]] = []
        """Handles, with what they were given for."""

    def key(self, space, pages) -> tuple[RadixKey, list[Name]]:
        tokens = [page for page in pages for _ in range(self.size)]
        return RadixKey(tokens, space), self.model.names(space, tokens)

    @rule(space=SPACES, pages=PAGES)
    def match(self, space, pages) -> None:
        key, names = self.key(space, pages)
        found = self.model.found(names)
        ends = [n for n, name in enumerate(found, 1) if name in self.snapshots]
        path = found[: max(ends, default=0)]
        result = self.cache.match_prefix(key)
        self.model.use(path)
        slots = [s for name in path for s in self.model.pages[name].slots]
        assert result.indices.tolist() == slots
        cached = len(found) * self.size
        assert result.mamba_branching_seqlen == (
            cached if len(found) > len(path) else None
        )
        if path:
            state = result.last_node.mamba_value
            assert state.tolist() == [self.snapshots[path[-1]]]
            self.use_snapshot(path[-1])
            self.see(path[-1], result.last_node)

    def see(self, name, node) -> None:
        self.nodes.append((name, self.model.pages[name], node))

    def use_snapshot(self, name) -> None:
        if name not in self.locked_states:
            self.snapshots[name] = self.snapshots.pop(name)

    @rule(space=SPACES, pages=PAGES, with_state=st.booleans())
    def insert(self, space, pages, with_state) -> None:
        key, names = self.key(space, pages)
        if self.pool.num_free < len(key):
            self.evict(len(key) - self.pool.num_free, 0)
        if self.pool.num_free < len(key):
            return
        state = self.states.alloc_track_slot() if with_state and pages else None
        slots = self.pool.alloc(len(pages))
        found = self.model.found(names)
        assert self.model.room_for(len(names) - len(found), found) == []
        result = self.cache.insert(
            key, torch.tensor(slots, dtype=torch.int64), mamba_value=state
        )
        assert result.prefix_len == len(found) * self.size
        self.pool.take_back(slots[: result.prefix_len])
        for place, name in enumerate(names):
            own = slots[place * self.size : (place + 1) * self.size]
            self.model.pages.setdefault(name, Page(own))
        self.model.use(names)
        if not names:
            return
        assert result.mamba_exist == (names[-1] in self.snapshots)
        self.see(names[-1], result.last_node)
        if state is not None and result.mamba_exist:
            self.states.free_track_slot(state)
        elif state is not None:
            self.snapshots[names[-1]] = state

    @rule(tokens=st.integers(0, 30), states=st.integers(0, 3))
    def evict(self, tokens, states) -> None:
        there = list(self.model.pages)
        pages = self.model.evict(-(-tokens // self.size))
        gone = [name for name in there if name not in self.model.pages]
        freed = [self.snapshots.pop(n) for n in gone if n in self.snapshots]
        idle = [n for n in self.snapshots if n not in self.locked_states]
        more = idle[: max(states - len(freed), 0)]
        freed += [self.snapshots.pop(name) for name in more]
        before = len(self.states.freed)
        result = self.cache.evict(tokens, states)
        assert result == EvictResult(len(pages) * self.size, 0, len(freed))
        assert sorted(self.states.freed[before:]) == sorted(freed)

    @rule(data=st.data())
    def lock(self, data) -> None:
        if not self.nodes:
            return
        seen = data.draw(st.sampled_from(self.nodes), label="node")
        name, page, node = seen
        if self.model.pages.get(name) is not page:
            with pytest.raises(PageStateError, match="was evicted"):
                self.cache.inc_lock_ref(node)
            self.nodes.remove(seen)
            return
        self.cache.inc_lock_ref(node)
        self.model.lock(name)
        self.locked.setdefault(name, []).append(node)
        if name in self.snapshots:
            self.locked_states.add(name)

    @rule(data=st.data())
    def unlock(self, data) -> None:
        if not self.locked:
            return
        name = data.draw(st.sampled_from(sorted(self.locked, key=repr)))
        self.cache.dec_lock_ref(self.locked[name].pop())
        self.model.unlock(name)
        if not self.locked[name]:
            del self.locked[name]
            if name in self.locked_states:
                self.locked_states.remove(name)
                self.use_snapshot(name)

    @rule()
    def insert_a_snapshot_of_the_cache(self) -> None:
        if self.snapshots and len(self.model.pages) < self.model.capacity:
            slots = self.pool.alloc(1)
            key = RadixKey([77] * self.size)
            state = next(iter(self.snapshots.values()))
            with pytest.raises((PageStateError, InsufficientPagesError)):
                self.cache.insert(key, torch.tensor(slots), mamba_value=state)
            self.pool.take_back(slots)

    @invariant()
    def everything_has_one_owner(self) -> None:
        if not hasattr(self, "model"):
            return
        cache, size = self.cache, self.size
        assert self.pool.held == set(self.model.slots)
        assert self.states.held == set(self.snapshots.values())
        assert cache.evictable_size() == self.model.num_evictable * size
        assert cache.total_size() == len(self.model.pages) * size
        assert cache.mamba_protected_size() == len(self.locked_states)
        idle = len(self.snapshots) - len(self.locked_states)
        assert cache.mamba_evictable_size() == idle
        cache.check()


HybridMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30
)
TestHybridMachine = HybridMachine.TestCase
