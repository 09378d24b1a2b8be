import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, batches, regimes
from kernels.checks import check_store
from kernels.models import Kernels


@pytest.mark.parametrize("regime", REGIMES)
def test_store_equals_reference_at_the_edges(
    kernels: Kernels, regime: str
) -> None:
    check_store(kernels, regimes(kernels.configuration.page_size)[regime])


@given(st.data())
@settings(max_examples=60)
def test_store_equals_reference(kernels: Kernels, data: st.DataObject) -> None:
    drawn = batches(kernels.configuration, longest_new=300, far=True)
    check_store(kernels, data.draw(drawn))
