from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvcache.errors import InvalidParamsError, PageStateError
from kvcache.paged_attention import PagedAttentionCacheManager
from paged_caches import sizes


def manager(num_pages: int = 9) -> PagedAttentionCacheManager:
    return PagedAttentionCacheManager(sizes(num_pages_per_layer=num_pages))


def test_pages_are_handed_out_from_1_on() -> None:
    pages = manager()
    assert pages.alloc_hbm_pages(3) == [1, 2, 3]
    assert pages.alloc_prefill_hbm_pages(9) == [4, 5, 6]
    assert pages.num_free_pages == 2


def test_too_many_are_none_at_all() -> None:
    pages = manager()
    assert pages.alloc_hbm_pages(9) == []
    assert pages.alloc_prefill_hbm_pages(33) == []
    assert pages.num_free_pages == 8
    assert pages.alloc_prefill_hbm_pages(32) == list(range(1, 9))


@pytest.mark.parametrize("count", [0, -1, -100])
def test_none_are_none(count: int) -> None:
    pages = manager()
    assert pages.alloc_hbm_pages(count) == []
    assert pages.alloc_prefill_hbm_pages(count) == []
    assert pages.num_free_pages == 8


def test_pages_come_back_in_order() -> None:
    pages = manager(4)
    assert pages.alloc_hbm_pages(3) == [1, 2, 3]
    pages.free_hbm_pages([3])
    pages.free_hbm_pages([0, 1, 2, 0])
    assert pages.alloc_hbm_pages(3) == [3, 1, 2]


def test_a_cache_of_one_page_has_none_to_hand_out() -> None:
    pages = manager(1)
    assert (pages.num_free_pages, pages.alloc_hbm_pages(1)) == (0, [])


@pytest.mark.parametrize("wrong", [[1, 1], [1, 4], [9], [-1], [1, 2, 3, 2]])
def test_a_double_free_frees_nothing(wrong: list[int]) -> None:
    pages = manager()
    pages.alloc_hbm_pages(3)
    with pytest.raises(PageStateError):
        pages.free_hbm_pages(wrong)
    assert pages.num_free_pages == 5


@pytest.mark.parametrize("wrong", [1.0, "1", None, True, [1]])
def test_pages_are_integers(wrong: Any) -> None:
    pages = manager()
    with pytest.raises(InvalidParamsError, match="`num_pages` must be an int"):
        pages.alloc_hbm_pages(wrong)
    with pytest.raises(InvalidParamsError, match="`prefill_length` must be"):
        pages.alloc_prefill_hbm_pages(wrong)
    with pytest.raises(InvalidParamsError, match="`pages` must be an integer"):
        pages.free_hbm_pages([wrong])
    with pytest.raises(InvalidParamsError, match="`pages` must be"):
        pages.free_hbm_pages(7)  # type: ignore[arg-type]
    assert pages.num_free_pages == 8


def test_a_manager_wants_metadata() -> None:
    with pytest.raises(InvalidParamsError, match="`metadata` must be a Paged"):
        PagedAttentionCacheManager(9)  # type: ignore[arg-type]


class ManagerMachine(RuleBasedStateMachine):
    """A manager against a queue of pages and a list of those held."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = manager(7)
        self.free = deque(range(1, 7))
        self.held: list[int] = []

    @rule(count=st.integers(-2, 8))
    def alloc(self, count: int) -> None:
        self.expect(self.manager.alloc_hbm_pages(count), count)

    @rule(length=st.integers(-5, 30))
    def alloc_prefill(self, length: int) -> None:
        found = self.manager.alloc_prefill_hbm_pages(length)
        self.expect(found, sum(1 for first in range(0, length, 4)))

    @rule(data=st.data())
    def free_some(self, data: st.DataObject) -> None:
        pages = data.draw(st.permutations([*self.held, 0, 0]))
        pages = pages[: data.draw(st.integers(0, len(pages)))]
        self.manager.free_hbm_pages(pages)
        for page in pages:
            if page:
                self.held.remove(page)
                self.free.append(page)

    @rule(pages=st.lists(st.integers(-1, 8), max_size=4))
    def free_any(self, pages: list[int]) -> None:
        real = [page for page in pages if page]
        is_fine = len(set(real)) == len(real) and set(real) <= set(self.held)
        if is_fine:
            self.manager.free_hbm_pages(pages)
            for page in real:
                self.held.remove(page)
                self.free.append(page)
        else:
            with pytest.raises(PageStateError):
                self.manager.free_hbm_pages(pages)

    def expect(self, found: list[int], count: int) -> None:
        wanted = []
        if 0 < count <= len(self.free):
            wanted = [self.free.popleft() for _ in range(count)]
        assert found == wanted
        self.held += found

    @invariant()
    def counts_agree(self) -> None:
        assert self.manager.num_free_pages == len(self.free)
        assert 0 not in self.held

    def teardown(self) -> None:
        # The order in which pages would be handed out is the queue's.
        rest = self.manager.alloc_hbm_pages(len(self.free))
        assert rest == list(self.free)


ManagerMachine.TestCase.settings = settings(max_examples=60)
TestManager = ManagerMachine.TestCase
