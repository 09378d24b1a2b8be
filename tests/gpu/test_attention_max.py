"""Our views, given to MAX's own attention on a GPU."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max.driver import Accelerator

from kernels.batch import REGIMES, batches, regimes
from kernels.max_attention import ON_GPU, max_attention_on
from kernels.max_attention_checks import check_max_attention
from kernels.models import CompiledKernels, Kernels


@pytest.fixture(scope="module")
def compiled() -> CompiledKernels:
    return max_attention_on(Accelerator(), ON_GPU)


@pytest.fixture(scope="module", params=ON_GPU, ids=str)
def kernels(
    compiled: CompiledKernels, request: pytest.FixtureRequest
) -> Kernels:
    return compiled.of(request.param)


@pytest.mark.parametrize("regime", REGIMES)
def test_attention_equals_reference_at_the_edges(
    kernels: Kernels, regime: str
) -> None:
    batch = regimes(kernels.configuration.page_size)[regime]
    check_max_attention(kernels, batch)


@given(st.data())
@settings(max_examples=30)
def test_attention_equals_reference(
    kernels: Kernels, data: st.DataObject
) -> None:
    batch = data.draw(batches(kernels.configuration, longest_new=40))
    check_max_attention(kernels, batch)
