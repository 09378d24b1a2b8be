from typing import Any

import numpy as np
import pytest
from max.driver import Buffer

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention import (
    PagedAttentionCacheView,
    PagedAttentionMetadata,
    StepMode,
    absent,
)
from paged_caches import (
    ONE,
    bits,
    decode,
    filled_view,
    mixed,
    prefill,
    rows,
    sizes,
    stain,
)

PROMPT = prefill(6, [8, 2])
BATCH = decode([3, -1], [[1, 0, 0], [5, 6, 7]])
NOTHING = PagedAttentionMetadata(*[np.int32(10**7)] * 5)


def test_what_is_absent_decides_the_mode() -> None:
    assert PROMPT.mode is StepMode.PREFILL
    assert BATCH.mode is StepMode.DECODE
    assert mixed(PROMPT, BATCH).mode is StepMode.MIXED
    with pytest.raises(ValueError, match="both are absent"):
        _ = NOTHING.mode


def test_rows_of_both_parts_are_counted() -> None:
    step = mixed(PROMPT, BATCH)
    assert (step.length, step.num_prefill_rows, step.num_decode_rows) == (
        6,
        8,
        2,
    )
    assert (PROMPT.num_decode_rows, BATCH.num_prefill_rows) == (0, 0)


def test_numbers_become_int32_and_arrays_stay() -> None:
    table = np.arange(3, dtype=np.uint64)
    positions = Buffer.from_numpy(np.arange(4))
    step = PagedAttentionMetadata(3, positions, table, absent(), np.int64(7))
    assert step.prefill_length.dtype == np.int32
    assert step.prefill_length.shape == ()
    assert step.prefill_pos is positions
    assert step.prefill_page_table is table
    assert step.generate_page_table.dtype == np.int64


def test_steps_are_equal_to_the_bit() -> None:
    assert prefill(6, [8, 2]) == PROMPT
    assert prefill(6, [8, 3]) != PROMPT
    assert prefill(5, [8, 2]) != PROMPT
    wide = PROMPT.replace(prefill_page_table=np.array([8, 2], np.int64))
    assert wide != PROMPT
    assert PROMPT != "PROMPT"
    with pytest.raises(TypeError, match="unhashable"):
        hash(PROMPT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefill_length": 0}, "must be from 1 to 8, the rows of .*, got 0"),
        ({"prefill_length": 9}, "must be from 1 to 8"),
        ({"prefill_length": [6]}, "`prefill_length` must have 0 axes"),
        ({"prefill_length": 6.0}, "`prefill_length` must be an array of int"),
        ({"prefill_length": None}, "`prefill_length` must be an array"),
        ({"prefill_length": True}, "`prefill_length` must be an array"),
        ({"prefill_pos": [[0]]}, "`prefill_pos` must have 1 axes, or none"),
        ({"prefill_pos": [0, [1]]}, "`prefill_pos` must be an array of int"),
        ({"prefill_pos": [0.5] * 8}, "`prefill_pos` must be an array of int"),
        ({"prefill_pos": [2**31] * 8}, "`prefill_pos` must be of int32"),
        (
            {"prefill_pos": np.zeros(8)},
            "`prefill_pos` must be of integers, got",
        ),
        ({"prefill_pos": np.zeros(8, bool)}, "wanted numbers in this machine"),
        ({"prefill_pos": absent()}, "must both be there or both be absent"),
        ({"prefill_page_table": 3}, "must both be there or both be absent"),
        (
            {"generate_pos": [1]},
            "`generate_pos` and `generate_page_table` must",
        ),
        ({"generate_page_table": [[1]]}, "both be absent, got 0 and 2 axes"),
        (
            {"generate_pos": [1, 2], "generate_page_table": [[1]]},
            "`generate_page_table` must have 2 rows",
        ),
    ],
)
def test_a_step_that_does_not_fit_itself_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParamsError, match=message):
        PROMPT.replace(**changes)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (NOTHING, "both are absent"),
        (prefill(3, [1], padded=6), "must have a multiple of 4 rows, .* got 6"),
        (prefill(5, [1]), "must have 2 pages for 5 tokens, got 1"),
        (prefill(5, [1, 2], first=2), "must count up from a multiple of 4"),
        (prefill(5, [1, 2], first=-4), "must count up from a multiple of 4"),
        (prefill(5, [1, 9]), "wanted a page from 0 to 8, got 9"),
        (prefill(5, [-1, 1]), "wanted a page from 0 to 8, got -1"),
        (decode([-2], [[1]]), "`generate_pos` must be from 0 to 3, or -1"),
        (decode([4], [[1]]), "`generate_pos` must be from 0 to 3, .*, got 4"),
        (decode([4], [[1, 9]]), "wanted a page from 0 to 8, got 9"),
        (decode([3, 3], [[1], [1]]), "got two in slot 3 of page 1"),
        (mixed(prefill(3, [1]), decode([2], [[1]])), "two in slot 2 of page 1"),
        (
            PROMPT.replace(prefill_pos=[0, 1, 2, 3, 4, 6, 7, 8]),
            "must count up",
        ),
        (
            BATCH.replace(generate_pos=np.array([3, 2**64 - 1], np.uint64)),
            "`generate_pos` must be below 2..63",
        ),
        (
            PROMPT.replace(prefill_page_table=np.array([2**64 - 1, 1], "u8")),
            "`prefill_page_table` must be below 2..63",
        ),
    ],
)
def test_a_step_that_does_not_fit_the_cache_writes_nothing(
    step: PagedAttentionMetadata, message: str
) -> None:
    view, untouched = (filled_view(sizes(), backend="numpy") for _ in range(2))
    num_rows = step.num_prefill_rows + step.num_decode_rows
    with pytest.raises(ValueError, match=message):
        view.concatenate_to_cache(rows(num_rows), rows(num_rows), step)
    assert view == untouched


def test_each_write_wants_its_part() -> None:
    view = PagedAttentionCacheView.init(ONE, sizes(), 0, backend="numpy")
    with pytest.raises(ValueError, match="`prefill_pos` must be there"):
        view.write_prefill_to_cache(rows(2), rows(2), BATCH)
    with pytest.raises(ValueError, match="`generate_pos` must be there"):
        view.write_generate_to_cache(rows(8), rows(8), PROMPT)


def test_an_unused_place_of_the_batch_damages_no_page() -> None:
    view = filled_view(sizes(), backend="numpy")
    # EasyDeL writes a position of -1 into the last page of the row.
    view.concatenate_to_cache(rows(2), rows(2), BATCH)
    untouched = [page for page in range(9) if page != 1]
    assert np.isnan(view.key_pages[:, untouched]).all()
    np.testing.assert_array_equal(view.key_pages[:, 1, 3], rows(2)[0])


def test_padding_of_a_prompt_damages_no_page() -> None:
    view = filled_view(sizes(), backend="numpy")
    values = rows(12)
    values[5:] = np.inf
    step = prefill(5, [4, 6, 7], padded=12)
    view.concatenate_to_cache(values, values, step)
    np.testing.assert_array_equal(view.key_pages[:, 6, 0], values[4])
    assert np.isnan(view.key_pages[:, 6, 1:]).all()
    assert np.isnan(view.key_pages[:, 7]).all()


def test_the_dummy_page_takes_what_belongs_nowhere() -> None:
    view = filled_view(sizes(), backend="numpy")
    step = mixed(prefill(8, [0, 3]), decode([1, 1], [[0], [0]]))
    view.concatenate_to_cache(rows(10), rows(10), step)
    assert np.isnan(view.key_pages[:, 0]).all()
    np.testing.assert_array_equal(
        view.key_pages[:, 3].swapaxes(0, 1), rows(10)[4:8]
    )


def test_a_chunk_goes_to_pages_of_its_own() -> None:
    whole, chunked = (filled_view(sizes(), backend="numpy") for _ in range(2))
    values = rows(12)
    whole.concatenate_to_cache(values, values, prefill(10, [3, 1, 2]))
    chunked.concatenate_to_cache(values[:8], values[:8], prefill(8, [3, 1]))
    last = prefill(2, [2], first=8)
    chunked.concatenate_to_cache(values[8:], values[8:], last)
    assert whole == chunked
    stain(chunked.key_pages)
    assert whole != chunked
    assert (bits(chunked.key_pages) == 2**32 - 1).all()
