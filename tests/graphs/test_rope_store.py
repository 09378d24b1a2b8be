import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, batches, regimes
from kernels.checks import check_rope_store
from kernels.models import Kernels


@pytest.mark.parametrize("regime", REGIMES)
def test_rope_store_equals_reference_at_the_edges(
    kernels: Kernels, regime: str
) -> None:
    batch = regimes(kernels.configuration.page_size)[regime]
    for rotation in kernels.configuration.rotations:
        check_rope_store(kernels, batch, rotation)


@given(st.data())
@settings(max_examples=60)
def test_rope_store_equals_reference(
    kernels: Kernels, data: st.DataObject
) -> None:
    batch = data.draw(batches(kernels.configuration, longest_new=60, far=True))
    for rotation in kernels.configuration.rotations:
        check_rope_store(kernels, batch, rotation)
