import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import page_pairs
from kernels.checks import check_copy_pages
from kernels.models import Kernels


@pytest.mark.parametrize(
    "pairs",
    [[], [(0, 1)], [(1, 0)], [(2, 0), (2, 1), (2, 3)], [(0, 3), (1, 2)]],
)
def test_copy_pages_equals_reference_by_hand(
    kernels: Kernels, pairs: list[tuple[int, int]]
) -> None:
    check_copy_pages(kernels, np.array(pairs, np.uint32).reshape(-1, 2))


@given(pairs=page_pairs(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_copy_pages_equals_reference(
    kernels: Kernels, pairs: np.ndarray, seed: int
) -> None:
    check_copy_pages(kernels, pairs, seed=seed)
