import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.batch import row_offsets
from kernels.models import CompiledKernels


@pytest.mark.parametrize(
    ("lengths", "new", "expected"),
    [
        ([], [], []),
        ([0], [0], [0]),
        ([7, 0, 100], [1, 5, 0], [8, 5, 100]),
        ([2**32 - 2], [1], [2**32 - 1]),
    ],
)
def test_increment_adds_each_sequence_its_own_tokens(
    compiled_kernels: CompiledKernels,
    lengths: list[int],
    new: list[int],
    expected: list[int],
) -> None:
    actual = compiled_kernels.increment(
        np.array(lengths, np.uint32), row_offsets(new)
    )

    assert actual.dtype == np.uint32
    assert actual.tolist() == expected


@given(
    batch=st.lists(
        st.tuples(st.integers(0, 2**31), st.integers(0, 2**16)), max_size=70
    )
)
def test_increment_equals_a_sum(
    compiled_kernels: CompiledKernels, batch: list[tuple[int, int]]
) -> None:
    lengths = np.array([cached for cached, _ in batch], np.uint32)

    actual = compiled_kernels.increment(
        lengths, row_offsets([new for _, new in batch])
    )

    assert actual.tolist() == [sum(pair) for pair in batch]
