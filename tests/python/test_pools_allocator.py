"""`TokenToKVPoolAllocator`: examples, errors, and pools that fit it."""

import pytest

torch = pytest.importorskip("torch")

from kvcache import pools  # noqa: E402
from kvcache.errors import (  # noqa: E402
    InvalidParamsError,
    SlotRangeError,
    SlotStateError,
    TensorMismatchError,
)
from kvcache.pools import TokenToKVPoolAllocator  # noqa: E402
from kvcache.pools import free_units as free_units_module  # noqa: E402


def make(size: int = 10, **more) -> TokenToKVPoolAllocator:
    return TokenToKVPoolAllocator(size, device="cpu", **more)


def ids(tensor) -> list[int]:
    assert tensor.dtype == torch.int32
    assert tensor.dim() == 1
    return tensor.tolist()


def test_slots_start_at_one_and_all_can_be_had() -> None:
    allocator = make(3)
    assert allocator.available_size() == 3
    assert ids(allocator.alloc(3)) == [1, 2, 3]
    assert allocator.alloc(1) is None
    assert allocator.available_size() == 0


def test_an_allocation_of_nothing_is_empty() -> None:
    allocator = make(1)
    assert ids(allocator.alloc(0)) == []
    allocator.alloc(1)
    assert ids(allocator.alloc(0)) == []


def test_a_shortage_takes_nothing() -> None:
    allocator = make(3)
    assert allocator.alloc(4) is None
    assert ids(allocator.alloc(3)) == [1, 2, 3]


def test_freed_slots_wait_until_the_long_list_is_short() -> None:
    allocator = make(6)
    taken = allocator.alloc(4)
    allocator.free(taken[[2, 0]])
    assert ids(allocator.release_slots) == [3, 1]
    assert ids(allocator.free_slots) == [5, 6]
    assert ids(allocator.alloc(1)) == [5]
    assert ids(allocator.alloc(2)) == [1, 3]
    assert ids(allocator.free_slots) == [6]
    assert ids(allocator.release_slots) == []


def test_without_sorting_freed_slots_come_in_the_order_they_were_freed() -> (
    None
):
    allocator = make(4, need_sort=False)
    taken = allocator.alloc(4)
    allocator.free(taken[3:])
    allocator.free(taken[[1, 0]])
    assert ids(allocator.alloc(3)) == [4, 2, 1]


def test_merging_by_hand_sorts() -> None:
    allocator = make(4)
    allocator.free(allocator.alloc(3).flip(0))
    allocator.merge_and_sort_free()
    assert ids(allocator.free_slots) == [1, 2, 3, 4]


@pytest.mark.parametrize("share", [0, 10**9], ids=["sorts", "scans"])
def test_both_ways_to_merge_give_the_same(
    share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_units_module, "SCAN_SHARE", share)
    allocator = make(50)
    taken = allocator.alloc(45)
    allocator.free(taken[torch.tensor([7, 30, 2])])
    allocator.free_group_begin()
    allocator.free(taken[40:])
    assert ids(allocator.alloc(8)) == [3, 8, 31, 46, 47, 48, 49, 50]


def test_what_was_handed_out_is_the_callers_own() -> None:
    allocator = make(5)
    taken = allocator.alloc(2)
    assert taken.untyped_storage().nbytes() == 8
    allocator.free_slots.zero_()
    taken.fill_(99)
    assert ids(allocator.alloc(3)) == [3, 4, 5]


def test_what_was_freed_is_copied() -> None:
    allocator = make(3)
    row = allocator.alloc(3).clone()
    allocator.free_group_begin()
    allocator.free(row)
    row.zero_()
    allocator.free_group_end()
    assert ids(allocator.alloc(3)) == [1, 2, 3]


def test_int64_slots_do_not_change_what_is_handed_out() -> None:
    allocator = make(4)
    allocator.free(allocator.alloc(4).long().view(2, 2))
    assert ids(allocator.alloc(4)) == [1, 2, 3, 4]


def test_groups_nest_and_the_outermost_end_frees() -> None:
    allocator = make(4)
    taken = allocator.alloc(4)
    allocator.free_group_begin()
    allocator.free(taken[:1])
    allocator.free_group_begin()
    allocator.free(taken[1:2])
    allocator.free_group_end()
    assert allocator.available_size() == 0
    assert allocator.alloc(1) is None
    allocator.free_group_end()
    assert allocator.available_size() == 2
    allocator.free_group_end()
    assert ids(allocator.alloc(2)) == [1, 2]


def test_a_group_as_a_context_ends_at_an_error_too() -> None:
    allocator = make(2)
    taken = allocator.alloc(2)

    def free_and_fail() -> None:
        with allocator.free_group(), allocator.free_group():
            allocator.free(taken[:1])
            allocator.free(taken[:1])

    with pytest.raises(SlotStateError):
        free_and_fail()
    assert ids(allocator.alloc(1)) == [1]
    allocator.free(taken[1:])
    assert allocator.available_size() == 1


def test_clear_frees_all_and_leaves_the_group() -> None:
    allocator = make(3)
    taken = allocator.alloc(3)
    with allocator.free_group():
        allocator.free(taken[:1])
        allocator.clear()
        assert allocator.available_size() == 3
    assert ids(allocator.alloc(3)) == [1, 2, 3]
    allocator.free(taken)
    assert allocator.available_size() == 3


@pytest.mark.parametrize(("size", "page"), [(64, 16), (60, 16), (5, 16)])
def test_pages_hold_all_tokens_and_fit_the_pool(size: int, page: int) -> None:
    pool, allocator = pools.make_full_attention_net_mem_pool(
        size, 1, 1, 2, 1, 2, device="cpu", dtype=torch.float32, page_size=page
    )
    taken = allocator.alloc(size)
    assert ids(taken) == list(range(page, page + size))
    rows = torch.arange(1, 2 * size + 1, dtype=torch.float32).view(size, 2)
    pool.set_kv_buffer(0, taken, rows, rows)
    assert torch.equal(pool.k_buffer[0].view(-1, 2)[taken.long()], rows)
    assert len(pool.k_buffer[0]) == (-(-size // page) + 1) * page
    assert allocator.alloc(1) is None
    assert (pool.size, allocator.size) == (size, size)


def test_single_tokens_fit_a_pool_of_one_more_slot() -> None:
    pool, allocator = pools.make_full_attention_net_mem_pool(
        10, 1, 1, 2, 3, 4, device="cpu"
    )
    assert [*pool.k_buffer[0].shape, *pool.v_buffer[0].shape] == [
        *(11, 1, 2),
        *(11, 3, 4),
    ]
    assert int(allocator.alloc(10).max()) == 10


def test_an_allocation_has_the_rest_of_its_last_page() -> None:
    allocator = make(12, page_size=4)
    assert ids(allocator.alloc(5)) == [4, 5, 6, 7, 8]
    assert allocator.available_size() == 4
    assert ids(allocator.alloc(1)) == [12]
    assert allocator.alloc(1) is None
    allocator.free(torch.tensor([11]))
    assert allocator.available_size() == 4
    assert ids(allocator.alloc(2)) == [8, 9]


def test_a_page_is_freed_once_in_a_call_and_in_a_group() -> None:
    allocator = make(12, page_size=4)
    taken = allocator.alloc(12)
    allocator.free(taken[:4])
    assert allocator.available_size() == 4
    with allocator.free_group():
        allocator.free(taken[4:7])
        allocator.free(taken[7:9])
        allocator.free(taken[8:])
        assert allocator.available_size() == 4
    assert allocator.available_size() == 12
    assert ids(allocator.alloc(12)) == list(range(4, 16))


def after(size: int, taken: int, **more) -> TokenToKVPoolAllocator:
    allocator = make(size, **more)
    allocator.alloc(taken)
    return allocator


@pytest.mark.parametrize(
    ("page", "slots", "error", "message"),
    [
        (1, [1, 0], SlotRangeError, "wanted 1 to 10, got 0"),
        (1, [1, 11], IndexError, "wanted 1 to 10, got 11"),
        (1, [-1], SlotRangeError, "got -1"),
        (1, [1, 6], SlotStateError, "slot 6 is free already"),
        (1, [1, 2, 1], SlotStateError, "slot 1 is free already"),
        (2, [2, 1], SlotRangeError, "wanted 2 to 11, got 1"),
        (2, [2, 12], SlotRangeError, "wanted 2 to 11, got 12"),
        (2, [3, 8], SlotStateError, "page 4 is free already"),
    ],
)
@pytest.mark.parametrize("in_group", [False, True])
def test_bad_slots_are_errors_that_free_nothing(
    page, slots, error, message, in_group
) -> None:
    allocator = after(10, 5, page_size=page)
    before = allocator.available_size()
    if in_group:
        allocator.free_group_begin()
    with pytest.raises(error, match=message):
        allocator.free(torch.tensor(slots))
    allocator.free_group_end()
    assert allocator.available_size() == before
    assert ids(allocator.release_slots) == []


@pytest.mark.parametrize("in_group", [False, True])
def test_a_second_free_is_an_error(in_group: bool) -> None:
    allocator = after(10, 5)
    if in_group:
        allocator.free_group_begin()
    allocator.free(torch.tensor([2, 3]))
    with pytest.raises(SlotStateError, match="slot 3 is free already"):
        allocator.free(torch.tensor([4, 3]))
    allocator.free_group_end()
    assert allocator.available_size() == 7


def test_a_second_free_of_a_page_is_an_error() -> None:
    allocator = after(12, 12, page_size=4)
    allocator.free(torch.tensor([4]))
    with pytest.raises(SlotStateError, match="page 1 is free already"):
        allocator.free(torch.tensor([5]))
    assert allocator.available_size() == 4


@pytest.mark.parametrize("given", [[1], 1, None, torch.tensor([1.0])])
def test_what_is_no_index_tensor_is_an_error(given) -> None:
    with pytest.raises(TensorMismatchError, match="wanted"):
        after(3, 1).free(given)


def test_freeing_nothing_does_nothing() -> None:
    allocator = make(3)
    allocator.free(torch.tensor([], dtype=torch.int64))
    assert allocator.available_size() == 3


@pytest.mark.parametrize("page", [1, 4])
def test_a_negative_count_is_an_error(page: int) -> None:
    allocator = make(8, page_size=page)
    with pytest.raises(InvalidParamsError, match="at least 0, got -1"):
        allocator.alloc(-1)
    assert allocator.available_size() == 8


@pytest.mark.parametrize(("size", "page"), [(0, 1), (-3, 1), (4, 0), (4, -1)])
def test_sizes_must_be_positive(size: int, page: int) -> None:
    with pytest.raises(InvalidParamsError, match="at least 1"):
        make(size, page_size=page)


def test_pages_are_given_back_in_the_order_of_their_first_slots() -> None:
    allocator = after(12, 12, page_size=4, need_sort=False)
    allocator.free(torch.tensor([8, 4, 12, 9, 13, 5]))
    assert ids(allocator.release_slots) == [2, 1, 3]
