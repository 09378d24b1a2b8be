"""A radix cache and its pool beside a dict, through whatever a loop may do."""

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
from kvcache.errors import InsufficientPagesError, PageStateError
from radix_model import Name, Page, RadixModel

torch = pytest.importorskip("torch")

from kvcache.pools import EvictResult, RadixCache, RadixKey  # noqa: E402
from slot_pools import SlotPool, WindowPool  # noqa: E402

SPACES = st.sampled_from([None, None, None, "", "a"])


def tokens_of(pages: list[int], page_size: int, rest: int) -> list[int]:
    """Pages of equal tokens, so that beginnings are often the same."""
    tokens = [page for page in pages for _ in range(page_size)]
    return tokens + [9] * min(rest, page_size - 1)


class RadixMachine(RuleBasedStateMachine):
    """One cache and one model, which get the same calls."""

    @initialize(
        core=st.sampled_from(CORES),
        page_size=st.sampled_from([1, 2, 16]),
        num_pages=st.integers(2, 12),
        is_small=st.sampled_from([False, False, True]),
        is_paged=st.booleans(),
        window=st.sampled_from([None, 1, 2, 3, 5, 20, 40]),
        is_shared=st.sampled_from([False, False, True]),
    )
    def start(
        self, core, page_size, num_pages, is_small, is_paged, window, is_shared
    ) -> None:
        kind = SlotPool if is_shared else WindowPool
        unit = page_size if is_paged else 1
        self.pool = kind(num_pages * page_size // unit, unit)
        capacity = max(num_pages // 2, 1) if is_small else num_pages
        self.evicted_nodes: list[int] = []
        with mock.patch.dict(os.environ, KVCACHE_CORE=core):
            self.cache = RadixCache(
                page_size,
                window,
                self.pool,
                self.evicted_nodes.append,
                capacity=capacity * page_size if is_small else None,
            )
        self.model = RadixModel(page_size, capacity, window)
        self.size = page_size
        self.nodes: dict[Name, list] = {}
        self.handles: list[tuple[Name, object]] = []

    # What a loop does.

    @rule(
        space=SPACES,
        pages=st.lists(st.integers(0, 1), max_size=6),
        rest=st.integers(0, 3),
    )
    def match(self, space, pages, rest) -> None:
        self.matched(space, tokens_of(pages, self.size, rest))

    def matched(self, space, tokens) -> list[int]:
        result = self.cache.match_prefix(RadixKey(tokens, space))
        path = self.model.offered(self.model.names(space, tokens))
        self.model.use(path)
        slots = [s for name in path for s in self.model.pages[name].slots]
        assert result.indices.tolist() == slots
        assert result.indices.dtype == torch.int64
        assert result.prefix_len == len(slots)
        self.see(result.last_node, path)
        return slots

    def see(self, node, path: list[Name]) -> None:
        """Verifies a handle, and keeps it."""
        if not path:
            assert node == self.cache.root_node
            return
        page = self.model.pages[path[-1]]
        assert page.node in {None, node.id}
        page.node = node.id
        assert (node.key.extra_key, tuple(node.key.token_ids)) == path[-1]
        self.handles.append((path[-1], node))

    @rule(
        data=st.data(),
        space=SPACES,
        pages=st.lists(st.integers(0, 1), max_size=6),
        rest=st.integers(0, 3),
        goes_on=st.booleans(),
    )
    def insert(self, data, space, pages, rest, goes_on) -> None:
        tokens = tokens_of(pages, self.size, rest)
        kept = self.matched(space, tokens) if goes_on else []
        own = self.take_slots(len(tokens) - len(kept))
        if own is None:
            return
        if goes_on and self.matched(space, tokens) != kept:
            self.pool.take_back(own)  # What it would go on with was evicted.
            return
        value = (kept + own)[: len(tokens)]
        gone = 0
        if self.model.window is not None and isinstance(self.pool, WindowPool):
            gone = data.draw(st.integers(0, len(tokens) // self.size)) * (
                self.size
            )
            self.pool.free_swa(torch.tensor(value[len(kept) : gone]).int())
        self.insert_slots(space, tokens, value, len(kept), gone)
        whole = len(tokens) // self.size * self.size
        self.pool.take_back(own[whole - len(kept) :])

    def take_slots(self, count: int) -> list[int] | None:
        """Takes pages of slots from the pool, evicting as a loop would."""
        count = -(-count // self.size) * self.size
        if self.pool.num_free < count:
            self.evict(count - self.pool.num_free, 0)
        if self.pool.num_free < count:
            return None
        return self.pool.alloc(count // self.pool.page_size)

    def insert_slots(self, space, tokens, value, kept, gone) -> None:
        """Inserts, and does what the caller must with its duplicates."""
        names = self.model.names(space, tokens)
        found = self.model.found(names)
        key = RadixKey(tokens, space)
        options = {"prev_prefix_len": kept, "swa_evicted_seqlen": gone}
        num_evicted = len(self.evicted_nodes)
        victims = self.model.room_for(len(names) - len(found), found)
        if victims is None:
            with pytest.raises(InsufficientPagesError):
                self.cache.insert(key, torch.tensor(value), **options)
            self.model.use(found, windows=False)
            whole = len(names) * self.size
            self.pool.take_back(value[kept:whole])
            return
        freed = len(self.pool.freed)
        result = self.cache.insert(key, torch.tensor(value).int(), **options)
        self.check_victims(victims, num_evicted)
        assert result.prefix_len == len(found) * self.size
        self.take_in(names, value, kept, gone)
        if not names:
            return
        self.see(result.last_node, names)
        left = [
            slot
            for place, name in enumerate(found)
            for slot in value[place * self.size : (place + 1) * self.size]
            if place * self.size >= kept
        ]
        if self.model.window is None:
            self.pool.take_back(left)
        else:
            freed += sum(len(page.slots) for page in victims)
            assert len(self.pool.freed) == freed + len(left)

    def take_in(self, names, value, kept, gone) -> None:
        """Lets the model hold what was inserted."""
        for place, name in enumerate(names):
            begin = place * self.size
            slots = value[begin : begin + self.size]
            is_gone = self.model.window is not None and begin < gone
            page = self.model.pages.get(name)
            if page is None:
                self.model.pages[name] = Page(slots, is_tombstone=is_gone)
            elif (
                page.is_tombstone
                and begin >= kept
                and not (is_gone or page.locks)
            ):
                page.slots, page.is_tombstone = slots, False
        self.model.use(names)

    @rule(
        tokens=st.integers(0, 40),
        windows=st.sampled_from([0, 0, 1, 5, 40]),
    )
    def evict(self, tokens, windows) -> None:
        live, num_evicted = self.model.num_live, len(self.evicted_nodes)
        victims = self.model.evict(-(-tokens // self.size))
        if self.model.window is not None:
            most = live - -(-windows // self.size)
            if isinstance(self.pool, WindowPool):
                self.model.bury(self.model.num_live - most)
            else:
                while self.model.num_live > max(most, 0):
                    more = self.model.evict(1)
                    victims += more
                    if not more:
                        break
        freed = len(self.pool.freed)
        result = self.cache.evict(tokens, windows)
        gone = live - self.model.num_live if self.model.window else 0
        assert result == EvictResult(len(victims) * self.size, gone * self.size)
        slots = [slot for page in victims for slot in page.slots]
        assert self.pool.freed[freed:] == slots
        self.check_victims(victims, num_evicted)

    def check_victims(self, victims: list[Page], before: int) -> None:
        """Verifies that each evicted page was called out, in order."""
        called = self.evicted_nodes[before:]
        assert len(called) == len(victims)
        for node, page in zip(called, victims, strict=True):
            assert page.node in {None, node}

    @rule(data=st.data())
    def lock(self, data) -> None:
        if not self.handles:
            return
        name, node = data.draw(st.sampled_from(self.handles), label="node")
        page = self.model.pages.get(name)
        if page is None or page.node != node.id:
            with pytest.raises(PageStateError, match="was evicted"):
                self.cache.inc_lock_ref(node)
            self.handles.remove((name, node))
            return
        token = self.cache.inc_lock_ref(node)
        assert (token is not None) <= (self.model.window is not None)
        self.model.lock(name)
        self.nodes.setdefault(name, []).append((node, token))

    @rule(data=st.data())
    def unlock(self, data) -> None:
        if not self.nodes:
            return
        name = data.draw(st.sampled_from(sorted(self.nodes, key=repr)))
        node, token = self.nodes[name].pop()
        if not self.nodes[name]:
            del self.nodes[name]
        if self.model.window is None:
            self.cache.dec_lock_ref(node)
        else:
            self.cache.dec_lock_ref(node, swa_boundary_id=token)
        self.model.unlock(name)

    @rule()
    def unlock_what_is_not(self) -> None:
        for name, node in self.handles:
            page = self.model.pages.get(name)
            if name not in self.nodes and page and page.node == node.id:
                with pytest.raises(PageStateError, match="is not locked"):
                    self.cache.dec_lock_ref(node)
                return

    @rule()
    def insert_a_slot_of_the_cache(self) -> None:
        slots = self.model.slots[: self.size]
        if len(slots) == self.size and len(self.model.pages) < (
            self.model.capacity
        ):
            key = RadixKey([77] * self.size)
            with pytest.raises(PageStateError, match="which it has"):
                self.cache.insert(key, torch.tensor(slots))

    # What must hold after each of them.

    @invariant()
    def sizes_add_up(self) -> None:
        if not hasattr(self, "model"):
            return
        cache, model, size = self.cache, self.model, self.size
        assert cache.evictable_size() == model.num_evictable * size
        assert cache.total_size() == len(model.pages) * size
        assert cache.protected_size() == (
            cache.total_size() - cache.evictable_size()
        )
        locked = model.num_window_locked
        live = model.num_live if model.window is not None else 0
        assert cache.swa_protected_size() == locked * size
        assert cache.swa_evictable_size() == (live - locked) * size
        cache.check()

    @invariant()
    def each_slot_has_one_owner(self) -> None:
        if not hasattr(self, "model"):
            return
        slots = self.model.slots
        assert len(set(slots)) == len(slots)
        assert self.pool.held == set(slots)
        if isinstance(self.pool, WindowPool):
            gone = [
                p.slots for p in self.model.pages.values() if p.is_tombstone
            ]
            assert self.pool.without_window == {s for p in gone for s in p}


RadixMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40
)
TestRadixMachine = RadixMachine.TestCase
