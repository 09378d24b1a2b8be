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

from kvcache.core.entry import Entry, Key
from kvcache.core.pool import PagePool
from kvcache.errors import InsufficientPagesError, PageStateError

KEY = Key(b"", b"", b"")


class Shelf:
    """A pool and what it is told of its pages."""

    def __init__(self, num_pages: int, *, first_page: int = 0) -> None:
        self.entries: dict[int, Entry] = {}
        self.evicted: list[int] = []
        self.pool = PagePool(
            num_pages, self.entries.get, self.evict, first_page=first_page
        )

    def evict(self, page: int) -> None:
        self.evicted.append(page)
        del self.entries[page]

    def keep(self, *pages: int, priority: int = 35) -> None:
        for page in pages:
            self.entries[page] = Entry(page, KEY, priority=priority)

    def forget_cached(self) -> list[int]:
        pages = self.pool.forget_cached()
        for page in pages:
            del self.entries[page]
        return pages


def test_pages_are_handed_out_oldest_first() -> None:
    pool = Shelf(10).pool
    pages = pool.allocate(3)
    assert pages == [0, 1, 2]
    pool.release(pages[::-1])
    assert pool.eviction_order() == [3, 4, 5, 6, 7, 8, 9, 2, 1, 0]
    assert pool.allocate(8) == [3, 4, 5, 6, 7, 8, 9, 2]


def test_shared_page_survives_its_first_release() -> None:
    pool = Shelf(2).pool
    (page,) = pool.allocate(1)
    pool.retain([page])
    pool.release([page])
    assert (pool.ref_count(page), pool.num_free) == (1, 1)
    pool.release([page])
    assert pool.num_free == 2


def test_allocation_takes_all_or_nothing() -> None:
    pool = Shelf(3).pool
    pool.allocate(2)
    with pytest.raises(InsufficientPagesError) as raised:
        pool.allocate(2)
    assert (raised.value.wanted, raised.value.free) == (2, 1)
    assert pool.num_free == 1
    assert pool.allocate(1) == [2]


def test_blank_pages_go_before_cached_ones() -> None:
    shelf = Shelf(4)
    pool = shelf.pool
    pool.allocate(4)
    shelf.keep(0, 1)
    pool.release([1, 0])  # Cached, and released before 3 and 2.
    pool.release([3, 2])
    assert (pool.num_free, pool.num_cached) == (4, 2)
    assert pool.allocate(3) == [3, 2, 1]
    assert shelf.evicted == [1]


def test_a_cached_page_can_be_held_again() -> None:
    shelf = Shelf(2)
    pool = shelf.pool
    pool.allocate(2)
    shelf.keep(0)
    pool.release([0, 1])
    pool.retain([0])
    assert pool.ref_count(0) == 1
    assert pool.allocate(1) == [1]
    pool.release([0])
    assert pool.eviction_order() == [0]


def test_an_evicted_page_is_blank_when_it_comes_back() -> None:
    shelf = Shelf(1)
    pool = shelf.pool
    pool.allocate(1)
    shelf.keep(0)
    pool.release([0])
    pool.allocate(1)
    pool.release([0])
    assert pool.num_cached == 0


def test_the_tail_of_a_shared_trunk_goes_before_the_trunk() -> None:
    shelf = Shelf(4)
    pool = shelf.pool
    trunk, left, right = [0, 1], [2], [3]
    pool.allocate(4)
    pool.retain(trunk)
    shelf.keep(0, 1, 2, 3)
    pool.release([*left, *reversed(trunk)])
    pool.release([*right, *reversed(trunk)])
    assert pool.eviction_order() == [2, 3, 1, 0]


def test_the_lowest_priority_goes_first_and_then_the_oldest() -> None:
    shelf = Shelf(5)
    pool = shelf.pool
    pool.allocate(5)
    shelf.keep(0, priority=100)
    shelf.keep(1, 2)
    shelf.keep(3, priority=0)
    pool.release([0, 2, 1, 3, 4])
    assert pool.eviction_order() == [4, 3, 2, 1, 0]
    assert pool.cached() == {3: 0, 2: 35, 1: 35, 0: 100}
    shelf.entries[0].priority = 35
    pool.relist(0)
    shelf.entries[2].priority = 36
    pool.relist(2)
    assert pool.eviction_order() == [4, 3, 1, 0, 2]


def test_a_held_page_is_in_no_list_whatever_its_priority() -> None:
    shelf = Shelf(1)
    shelf.pool.allocate(1)
    shelf.keep(0, priority=7)
    shelf.pool.relist(0)
    assert shelf.pool.eviction_order() == []
    shelf.pool.forget([0])
    assert (shelf.pool.ref_count(0), shelf.pool.num_free) == (1, 0)


def test_forgetting_makes_only_free_pages_blank() -> None:
    shelf = Shelf(3)
    pool = shelf.pool
    pool.allocate(3)
    shelf.keep(0, 1, 2)
    pool.release([1, 0])
    assert shelf.forget_cached() == [1, 0]
    assert pool.num_cached == 0
    pool.release([2])
    assert pool.num_cached == 1


def test_the_pages_of_a_pool_may_begin_anywhere() -> None:
    shelf = Shelf(3, first_page=7)
    pool = shelf.pool
    assert pool.allocate(2) == [7, 8]
    shelf.keep(8)
    pool.release([8, 7])
    assert pool.eviction_order() == [9, 7, 8]
    with pytest.raises(PageStateError, match="from 7 to 9, got 6"):
        pool.ref_count(6)
    pool.check()


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("release", [[0, 0]], "drop 2 references to page 0, it has 1"),
        ("release", [[0, 2]], "drop 1 references to page 2, it has 0"),
        ("release", [[0, 3]], "from 0 to 2, got 3"),
        ("release", [[-1]], "from 0 to 2, got -1"),
        ("retain", [[0, 2]], "page 2 is blank"),
        ("retain", [[0, -3]], "got -3"),
        ("ref_count", [7], "got 7"),
        ("allocate", [-1], "at least 0 pages, got -1"),
    ],
)
def test_what_raises_has_changed_nothing(
    call: str, arguments: list[object], message: str
) -> None:
    pool = Shelf(3).pool
    pool.allocate(2)
    with pytest.raises(PageStateError, match=message):
        getattr(pool, call)(*arguments)
    assert [pool.ref_count(page) for page in range(3)] == [1, 1, 0]
    pool.check()
    pool.release([1, 0])
    assert pool.num_cached == 0


def test_check_sees_a_lost_page() -> None:
    pool = Shelf(3).pool
    pool._blank.pop()
    with pytest.raises(AssertionError, match="page 2 with 0 references"):
        pool.check()


def test_check_sees_a_page_in_the_list_of_another_priority() -> None:
    shelf = Shelf(1)
    shelf.pool.allocate(1)
    shelf.keep(0)
    shelf.pool.release([0])
    shelf.entries[0].priority = 36
    with pytest.raises(AssertionError, match="list 35, its priority is 36"):
        shelf.pool.check()


def test_a_pool_cannot_be_smaller_than_empty() -> None:
    assert len(Shelf(0).pool) == 0
    with pytest.raises(PageStateError):
        Shelf(-1)


class PoolMachine(RuleBasedStateMachine):
    """Against a model of lists: who is blank, who is cached, who is held."""

    @initialize(num_pages=st.integers(0, 7))
    def start(self, num_pages: int) -> None:
        self.shelf = Shelf(num_pages)
        self.pool = self.shelf.pool
        self.blank = list(range(num_pages))
        self.lists: dict[int, list[int]] = {}
        self.refs: Counter[int] = Counter()
        self.kept: dict[int, int] = {}
        self.expected_evicted: list[int] = []

    @property
    def cached(self) -> list[int]:
        return [p for key in sorted(self.lists) for p in self.lists[key]]

    def uncache(self, pages: list[int]) -> None:
        for listed in self.lists.values():
            listed[:] = [page for page in listed if page not in pages]

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
        for page in evicted:
            del self.kept[page]
        self.blank = [p for p in self.blank if p not in free[:count]]
        self.uncache(evicted)
        self.refs.update(free[:count])

    @rule(data=st.data())
    def retain(self, data: st.DataObject) -> None:
        pages = data.draw(st.lists(st.integers(0, 7), max_size=3))
        if all(self.refs[page] or page in self.cached for page in pages):
            self.pool.retain(pages)
            self.refs.update(pages)
            self.uncache(pages)
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
                    self.listed(page).append(page)
        else:
            with pytest.raises(PageStateError):
                self.pool.release(pages)

    def listed(self, page: int) -> list[int]:
        if page not in self.kept:
            return self.blank
        return self.lists.setdefault(self.kept[page], [])

    @precondition(lambda self: any(self.refs.values()))
    @rule(data=st.data(), priority=st.sampled_from([0, 34, 35, 36, 100]))
    def keep(self, data: st.DataObject, priority: int) -> None:
        held = [page for page, refs in self.refs.items() if refs]
        page = data.draw(st.sampled_from(held))
        self.shelf.keep(page, priority=priority)
        self.kept[page] = priority

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), priority=st.integers(0, 100))
    def relist(self, data: st.DataObject, priority: int) -> None:
        page = data.draw(st.sampled_from(sorted(self.kept)))
        self.shelf.entries[page].priority = self.kept[page] = priority
        self.pool.relist(page)
        if not self.refs[page]:
            self.uncache([page])
            self.listed(page).append(page)

    @rule()
    def forget(self) -> None:
        assert self.shelf.forget_cached() == self.cached
        for page in self.cached:
            del self.kept[page]
        self.blank += self.cached
        self.lists = {}

    @invariant()
    def agrees(self) -> None:
        self.pool.check()
        assert self.pool.eviction_order() == self.blank + self.cached
        assert self.pool.num_free == len(self.blank) + len(self.cached)
        assert self.pool.num_cached == len(self.cached)
        assert self.shelf.evicted == self.expected_evicted
        for page in range(len(self.pool)):
            assert self.pool.ref_count(page) == self.refs[page]


TestPoolMachine = PoolMachine.TestCase
