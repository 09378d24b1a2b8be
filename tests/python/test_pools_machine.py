"""The allocator and the request pool against plain Python models."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import (  # noqa: E402
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from kvcache.errors import SlotRangeError, SlotStateError  # noqa: E402
from kvcache.pools import (  # noqa: E402
    ReqToTokenPool,
    TokenToKVPoolAllocator,
    free_units,
)

QUICK = settings(max_examples=40, stateful_step_count=30, deadline=None)


class Allocator(RuleBasedStateMachine):
    """Sets of pages, of one token where there are no pages."""

    @initialize(
        size=st.integers(1, 30),
        page=st.sampled_from([1, 1, 2, 4]),
        sorts=st.booleans(),
        share=st.sampled_from([0, 3, 10**6]),
    )
    def start(self, size: int, page: int, sorts: bool, share: int) -> None:
        self.page, self.num_pages = page, -(-size // page)
        self.saved = free_units.SCAN_SHARE
        free_units.SCAN_SHARE = share
        self.sorts = sorts
        self.allocator = TokenToKVPoolAllocator(
            size, device="cpu", page_size=page, need_sort=sorts
        )
        self.reset()

    def teardown(self) -> None:
        free_units.SCAN_SHARE = self.saved

    def reset(self) -> None:
        self.ready = list(range(1, self.num_pages + 1))
        self.returned: list[int] = []
        self.pending: list[int] = []
        self.held: set[int] = set()
        self.depth = 0

    @rule(tokens=st.integers(0, 40))
    def alloc(self, tokens: int) -> None:
        count = -(-tokens // self.page)
        found = self.allocator.alloc(tokens)
        if count > len(self.ready) + len(self.returned):
            assert found is None
            return
        if count > len(self.ready) and self.returned:
            self.ready += self.returned
            self.returned = []
            if self.sorts:
                self.ready.sort()
        taken, self.ready = self.ready[:count], self.ready[count:]
        self.held |= set(taken)
        slots = [
            page * self.page + place
            for page in taken
            for place in range(self.page)
        ]
        assert found is not None
        assert found.dtype == torch.int32
        assert found.tolist() == slots[:tokens]

    def give(self, pages: list[int]) -> None:
        (self.pending if self.depth else self.returned).extend(pages)
        self.held -= set(pages)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), wide=st.booleans())
    def free(self, data: Any, wide: bool) -> None:
        pages = data.draw(
            st.lists(st.sampled_from(sorted(self.held)), unique=True)
        )
        places = st.lists(
            st.integers(0, self.page - 1), min_size=1, unique=True
        )
        slots = [
            page * self.page + place
            for page in pages
            for place in data.draw(places)
        ]
        if self.page > 1:
            slots = data.draw(st.permutations(slots))
            pages = list(dict.fromkeys(slot // self.page for slot in slots))
        dtype = torch.int64 if wide else torch.int32
        self.allocator.free(torch.tensor(slots, dtype=dtype))
        self.give(pages)

    @precondition(lambda self: len(self.held) < self.num_pages)
    @rule(data=st.data())
    def free_what_is_not_held(self, data: Any) -> None:
        others = set(range(1, self.num_pages + 1)) - self.held
        if self.page > 1:
            others -= set(self.pending)
        if not others:
            return
        bad = data.draw(st.sampled_from(sorted(others))) * self.page
        good = [page * self.page for page in sorted(self.held)]
        with pytest.raises(SlotStateError):
            self.allocator.free(torch.tensor([*good, bad]))

    @precondition(lambda self: self.page == 1 and self.held)
    @rule(data=st.data())
    def free_one_twice_in_a_call(self, data: Any) -> None:
        slot = data.draw(st.sampled_from(sorted(self.held)))
        slots = torch.tensor([*self.held, slot])
        with pytest.raises(SlotStateError, match=f"slot {slot} "):
            self.allocator.free(slots)

    @precondition(lambda self: self.page > 1 and self.pending)
    @rule()
    def free_a_pending_page_again(self) -> None:
        self.allocator.free(torch.tensor([self.pending[-1] * self.page]))

    @rule(off=st.sampled_from(["padding", "negative", "past"]))
    def free_out_of_range(self, off: str) -> None:
        bad = {
            "padding": self.page - 1,
            "negative": -1,
            "past": (self.num_pages + 1) * self.page,
        }[off]
        good = [page * self.page for page in sorted(self.held)]
        with pytest.raises(SlotRangeError):
            self.allocator.free(torch.tensor([*good, bad]))

    @rule()
    def begin(self) -> None:
        self.allocator.free_group_begin()
        self.depth += 1

    @rule()
    def end(self) -> None:
        self.allocator.free_group_end()
        self.depth = max(self.depth - 1, 0)
        if self.depth == 0:
            self.returned += self.pending
            self.pending = []

    @rule()
    def merge(self) -> None:
        self.allocator.merge_and_sort_free()
        if self.returned:
            self.ready += self.returned
            self.returned = []
            if self.sorts:
                self.ready.sort()

    @rule()
    def clear(self) -> None:
        self.allocator.clear()
        self.reset()

    @invariant()
    def lists_are_those_of_the_model(self) -> None:
        if not hasattr(self, "allocator"):
            return
        assert self.allocator.free_slots.tolist() == self.ready
        assert self.allocator.release_slots.tolist() == self.returned
        num_free = len(self.ready) + len(self.returned)
        assert self.allocator.available_size() == num_free * self.page


class Requests(RuleBasedStateMachine):
    """A list of free rows and a dictionary of what each row holds."""

    LENGTH = 6

    @initialize(size=st.integers(1, 5))
    def start(self, size: int) -> None:
        self.size = size
        self.pool = ReqToTokenPool(size, self.LENGTH, device="cpu")
        self.clear()

    @rule()
    def clear(self) -> None:
        self.pool.clear()
        self.free_rows = list(range(1, self.size + 1))
        self.rows = [[0] * self.LENGTH for _ in range(self.size + 1)]

    @property
    def held(self) -> list[int]:
        return [
            row for row in range(1, self.size + 1) if row not in self.free_rows
        ]

    @rule(count=st.integers(0, 6))
    def alloc(self, count: int) -> None:
        found = self.pool.alloc(count)
        if count > len(self.free_rows):
            assert found is None
            return
        assert found == self.free_rows[:count]
        del self.free_rows[:count]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: Any) -> None:
        row = data.draw(st.sampled_from(self.held))
        self.pool.free(row)
        self.free_rows.append(row)

    @precondition(lambda self: self.free_rows)
    @rule(data=st.data())
    def use_a_free_row(self, data: Any) -> None:
        row = data.draw(st.sampled_from(self.free_rows))
        with pytest.raises(SlotStateError):
            self.pool.free(row)
        with pytest.raises(SlotStateError):
            self.pool.write((row, 0), 5)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), begin=st.integers(0, 6), end=st.integers(0, 6))
    def write(self, data: Any, begin: int, end: int) -> None:
        begin, end = sorted([begin, end])
        row = data.draw(st.sampled_from(self.held))
        slots = data.draw(
            st.lists(
                st.integers(0, 2**31 - 1),
                min_size=end - begin,
                max_size=end - begin,
            )
        )
        values = torch.tensor(slots, dtype=torch.int64)
        self.pool.write((row, slice(begin, end)), values)
        self.rows[row][begin:end] = slots

    @precondition(lambda self: self.held)
    @rule(position=st.integers(0, 5), slot=st.integers(0, 99))
    def write_a_step_of_all(self, position: int, slot: int) -> None:
        requests = torch.tensor(self.held)
        slots = slot + torch.arange(len(self.held), dtype=torch.int32)
        positions = torch.full_like(requests, position)
        self.pool.write((requests, positions), slots)
        for row, each in zip(self.held, slots.tolist(), strict=True):
            self.rows[row][position] = each

    @invariant()
    def table_is_that_of_the_model(self) -> None:
        if hasattr(self, "pool"):
            assert self.pool.available_size() == len(self.free_rows)
            assert self.pool.req_to_token.tolist() == self.rows


TestAllocator = Allocator.TestCase
TestAllocator.settings = QUICK
TestRequests = Requests.TestCase
TestRequests.settings = QUICK
