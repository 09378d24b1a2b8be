"""`ReqToTokenPool`: examples and errors."""

import pytest

torch = pytest.importorskip("torch")

from kvcache.errors import (  # noqa: E402
    InvalidParamsError,
    SequenceTooLongError,
    SlotRangeError,
    SlotStateError,
    TensorMismatchError,
)
from kvcache.pools import ReqToTokenPool, make_req_to_token_pool  # noqa: E402


def make(max_reqs: int = 3, max_context_len: int = 5) -> ReqToTokenPool:
    return ReqToTokenPool(max_reqs, max_context_len, device="cpu")


def slots(*values: int):
    return torch.tensor(values, dtype=torch.int32)


def test_rows_start_at_one_and_row_zero_is_the_paddings() -> None:
    pool = make_req_to_token_pool(3, 5, "cpu")
    assert pool.available_size() == pool.size == 3
    assert pool.alloc(3) == [1, 2, 3]
    assert pool.alloc() is None
    assert pool.req_to_token.dtype == torch.int32
    assert tuple(pool.req_to_token.shape) == (4, 5)
    assert not pool.req_to_token.any()


def test_rows_freed_longest_ago_come_first() -> None:
    pool = make()
    pool.alloc(2)
    pool.free(2)
    pool.free(1)
    assert pool.alloc(3) == [3, 2, 1]


def test_one_is_the_default_and_none_is_none() -> None:
    pool = make()
    assert pool.alloc() == [1]
    assert pool.alloc(0) == []
    assert pool.alloc(3) is None
    assert pool.available_size() == 2


def test_a_request_is_written_and_read_back() -> None:
    pool = make()
    [request] = pool.alloc(1)
    pool.write((request, slice(0, 3)), slots(7, 8, 9))
    pool.write((request, 3), 4)
    assert pool.req_to_token[request, :4].tolist() == [7, 8, 9, 4]
    pool.write(request, slots(1, 2, 3, 4, 5))
    assert pool.req_to_token[request].tolist() == [1, 2, 3, 4, 5]


def test_a_step_of_a_batch_is_written_at_once() -> None:
    pool = make()
    requests = torch.tensor(pool.alloc(3), dtype=torch.int32)
    pool.write((requests, slots(0, 4, 2)), slots(7, 8, 9).long())
    assert pool.req_to_token[1:].tolist() == [
        [7, 0, 0, 0, 0],
        [0, 0, 0, 0, 8],
        [0, 0, 9, 0, 0],
    ]
    pool.write((slice(1, 3), slice(0, 2)), slots(1, 2, 3, 4).view(2, 2))
    assert pool.req_to_token[1:3, :2].tolist() == [[1, 2], [3, 4]]
    pool.write((requests[:2], slice(3, 5)), slots(5, 6, 7, 8).view(2, 2))
    assert pool.req_to_token[1:3, 3:].tolist() == [[5, 6], [7, 8]]


def test_clear_frees_all_and_empties_the_table() -> None:
    pool = make()
    pool.alloc(2)
    pool.write((1, 0), 9)
    pool.clear()
    assert not pool.req_to_token.any()
    assert pool.alloc(3) == [1, 2, 3]


@pytest.mark.parametrize(
    ("index", "values", "error", "message"),
    [
        ((0, 0), 1, SlotStateError, "request: 0 is not allocated"),
        ((3, 0), 1, SlotStateError, "request: 3 is not allocated"),
        ((-1, 0), 1, SlotRangeError, "0 to 3, got -1"),
        ((4, 0), 1, IndexError, "0 to 3, got 4"),
        ((1, 5), 1, SequenceTooLongError, "at most 5 tokens .* got 6"),
        ((1, -1), 1, SlotRangeError, "0 to 4, got -1"),
        ((1, slice(0, 6)), slots(*range(6)), SequenceTooLongError, "got 6"),
        ((1, slice(-2, None)), slots(1, 2), SlotRangeError, "-2:5"),
        ((1, slice(3, 1)), slots(), SlotRangeError, "3:1"),
        ((1, slice(0, 4, 2)), slots(1, 2), InvalidParamsError, "step 1"),
        ((1, slice(0, 2)), slots(1), RuntimeError, r"\(2,\), got \(1,\)"),
        ((1, slice(0, 2)), slots(1, 2, 3), TensorMismatchError, "shape"),
        ((1, slice(0, 1)), torch.tensor([1.0]), RuntimeError, "float32"),
        ((1, slice(0, 1)), slots(-1), SlotRangeError, "values: .* got -1"),
        ((1, 0), -1, SlotRangeError, "values: .* got -1"),
        ((1, 0), torch.tensor(2**31), SlotRangeError, "got 2147483648"),
        ((slots(1, 3), 0), slots(1, 1), SlotStateError, "not allocated"),
        ((slots(1, 4), 0), slots(1, 1), SlotRangeError, "got 4"),
        ((1, slots(0, 5)), slots(1, 1), SequenceTooLongError, "got 6"),
        ((1, slots(0, -1)), slots(1, 1), SlotRangeError, "got -1"),
        ((slots(1, 2), slots(1, 2, 3)), slots(1), RuntimeError, "one shape"),
        ((torch.tensor([1.0]), 0), slots(1), RuntimeError, "float32"),
        ((slice(0, 2), 0), slots(1, 1), SlotStateError, "not allocated"),
    ],
)
def test_a_bad_write_is_an_error_that_changes_nothing(
    index, values, error, message
) -> None:
    pool = make()
    pool.alloc(2)
    with pytest.raises(error, match=message):
        pool.write(index, values)
    assert not pool.req_to_token.any()


@pytest.mark.parametrize("row", [0, -1, 4])
def test_freeing_what_is_no_row_is_an_error(row: int) -> None:
    pool = make()
    pool.alloc(3)
    with pytest.raises(SlotRangeError, match=f"wanted 1 to 3, got {row}"):
        pool.free(row)
    assert pool.available_size() == 0


def test_freeing_twice_is_an_error() -> None:
    pool = make()
    pool.alloc(1)
    pool.free(1)
    with pytest.raises(SlotStateError, match="1 is not allocated"):
        pool.free(1)
    assert pool.available_size() == 3


def test_a_negative_count_is_an_error() -> None:
    with pytest.raises(InvalidParamsError, match="at least 0, got -1"):
        make().alloc(-1)


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (1, 0), (-1, 4)])
def test_sizes_must_be_positive(rows: int, columns: int) -> None:
    with pytest.raises(InvalidParamsError, match="at least 1"):
        make(rows, columns)
