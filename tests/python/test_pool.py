from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from kvcache.core.pool import PagePool
from kvcache.errors import InsufficientPagesError, PageStateError


def test_pages_are_handed_out_oldest_first() -> None:
    pool = PagePool(10)
    pages = pool.allocate(3)
    assert pages == [0, 1, 2]
    pool.release(pages[::-1])
    assert pool.eviction_order() == [3, 4, 5, 6, 7, 8, 9, 2, 1, 0]
    assert pool.allocate(8) == [3, 4, 5, 6, 7, 8, 9, 2]


def test_shared_page_survives_its_first_release() -> None:
    pool = PagePool(2)
    (page,) = pool.allocate(1)
    pool.retain([page])
    pool.release([page])
    assert (pool.ref_count(page), pool.num_free) == (1, 1)
    pool.release([page])
    assert pool.num_free == 2


def test_allocation_takes_all_or_nothing() -> None:
    pool = PagePool(3)
    pool.allocate(2)
    with pytest.raises(InsufficientPagesError) as raised:
        pool.allocate(2)
    assert (raised.value.wanted, raised.value.free) == (2, 1)
    assert pool.num_free == 1
    assert pool.allocate(1) == [2]


def test_blank_pages_go_before_cached_ones() -> None:
    evicted: list[int] = []
    pool = PagePool(4, evicted.append)
    pool.allocate(4)
    pool.keep([0, 1])
    pool.release([1, 0])  # Cached, and released before 3 and 2.
    pool.release([3, 2])
    assert (pool.num_free, pool.num_cached) == (4, 2)
    assert pool.allocate(3) == [3, 2, 1]
    assert evicted == [1]


def test_a_cached_page_can_be_held_again() -> None:
    pool = PagePool(2)
    pool.allocate(2)
    pool.keep([0])
    pool.release([0, 1])
    pool.retain([0])
    assert pool.ref_count(0) == 1
    assert pool.allocate(1) == [1]
    pool.release([0])
    assert pool.eviction_order() == [0]


def test_an_evicted_page_is_blank_when_it_comes_back() -> None:
    pool = PagePool(1)
    pool.allocate(1)
    pool.keep([0])
    pool.release([0])
    pool.allocate(1)
    pool.release([0])
    assert pool.num_cached == 0


def test_the_tail_of_a_shared_trunk_goes_before_the_trunk() -> None:
    pool = PagePool(4)
    trunk, left, right = [0, 1], [2], [3]
    pool.allocate(4)
    pool.retain(trunk)
    pool.keep([0, 1, 2, 3])
    pool.release([*left, *reversed(trunk)])
    pool.release([*right, *reversed(trunk)])
    assert pool.eviction_order() == [2, 3, 1, 0]


def test_forgetting_makes_only_free_pages_blank() -> None:
    pool = PagePool(3)
    pool.allocate(3)
    pool.keep([0, 1, 2])
    pool.release([1, 0])
    assert pool.forget_cached() == [1, 0]
    assert pool.num_cached == 0
    pool.release([2])
    assert pool.num_cached == 1


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("release", [[0, 0]], "drop 2 references to page 0, it has 1"),
        ("release", [[0, 2]], "drop 1 references to page 2, it has 0"),
        ("release", [[0, 3]], "from 0 to 2, got 3"),
        ("release", [[-1]], "from 0 to 2, got -1"),
        ("retain", [[0, 2]], "page 2 is blank"),
        ("retain", [[0, -3]], "got -3"),
        ("keep", [[0, 2]], "page 2 is free"),
        ("keep", [[5]], "got 5"),
        ("ref_count", [7], "got 7"),
        ("allocate", [-1], "at least 0 pages, got -1"),
    ],
)
def test_what_raises_has_changed_nothing(
    call: str, arguments: list[object], message: str
) -> None:
    pool = PagePool(3)
    pool.allocate(2)
    with pytest.raises(PageStateError, match=message):
        getattr(pool, call)(*arguments)
    assert [pool.ref_count(page) for page in range(3)] == [1, 1, 0]
    pool.check()
    pool.release([1, 0])
    assert pool.num_cached == 0


def test_check_sees_a_lost_page() -> None:
    pool = PagePool(3)
    pool._blank.pop()
    with pytest.raises(AssertionError, match="page 2 with 0 references"):
        pool.check()


def test_a_pool_cannot_be_smaller_than_empty() -> None:
    assert len(PagePool(0)) == 0
    with pytest.raises(PageStateError):
        PagePool(-1)


class PoolMachine(RuleBasedStateMachine):
    """Against a model of lists: who is blank, who is cached, who is held."""

    @initialize(num_pages=st.integers(0, 7))
    def start(self, num_pages: int) -> None:
        self.evicted: list[int] = []
        self.pool = PagePool(num_pages, self.evicted.append)
        self.blank = list(range(num_pages))
        self.cached: list[int] = []
        self.refs: Counter[int] = Counter()
        self.kept: set[int] = set()
        self.expected_evicted: list[int] = []

    @rule(count=st.integers(0, 8))
    def allocate(self, count: int) -> None:
        free = self.blank + self.cached
        if count > len(free):
            with pytest.raises(InsufficientPagesError):
                self.pool.allocate(count)
            return
        assert self.pool.allocate(count) == free[:count]
        evicted = [page for page in free[:count] if page in self.cached]
        self.expected_evicted += evicted
        self.kept -= set(evicted)
        self.blank = [p for p in self.blank if p not in free[:count]]
        self.cached = [p for p in self.cached if p not in free[:count]]
        self.refs.update(free[:count])

    @rule(data=st.data())
    def retain(self, data: st.DataObject) -> None:
        pages = data.draw(st.lists(st.integers(0, 7), max_size=3))
        if all(self.refs[page] or page in self.cached for page in pages):
            self.pool.retain(pages)
            self.refs.update(pages)
            self.cached = [p for p in self.cached if p not in pages]
        else:
            with pytest.raises(PageStateError):
                self.pool.retain(pages)

    @rule(pages=st.lists(st.integers(0, 7), max_size=4))
    def release(self, pages: list[int]) -> None:
        if Counter(pages) <= self.refs:
            self.pool.release(pages)
            for page in pages:
                self.refs[page] -= 1
                if not self.refs[page]:
                    kept = page in self.kept
                    (self.cached if kept else self.blank).append(page)
        else:
            with pytest.raises(PageStateError):
                self.pool.release(pages)

    @precondition(lambda self: any(self.refs.values()))
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        held = [page for page, refs in self.refs.items() if refs]
        page = data.draw(st.sampled_from(held))
        self.pool.keep([page])
        self.kept.add(page)

    @rule()
    def forget(self) -> None:
        assert self.pool.forget_cached() == self.cached
        self.kept -= set(self.cached)
        self.blank += self.cached
        self.cached = []

    @invariant()
    def agrees(self) -> None:
        self.pool.check()
        assert self.pool.eviction_order() == self.blank + self.cached
        assert self.pool.num_free == len(self.blank) + len(self.cached)
        assert self.pool.num_cached == len(self.cached)
        assert self.evicted == self.expected_evicted
        for page in range(len(self.pool)):
            assert self.pool.ref_count(page) == self.refs[page]


TestPoolMachine = PoolMachine.TestCase
