import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, batches, beyond_the_caches, regimes
from kernels.checks import check_gather
from kernels.configuration import LARGE_PAGES
from kernels.models import CompiledKernels, Kernels


@pytest.mark.parametrize("regime", REGIMES)
def test_gather_equals_reference_at_the_edges(
    kernels: Kernels, regime: str
) -> None:
    check_gather(kernels, regimes(kernels.configuration.page_size)[regime])


@given(st.data())
@settings(max_examples=60)
def test_gather_equals_reference(kernels: Kernels, data: st.DataObject) -> None:
    check_gather(
        kernels, data.draw(batches(kernels.configuration, longest_new=40))
    )


def test_gather_past_the_caches_equals_reference(
    compiled_kernels: CompiledKernels,
) -> None:
    check_gather(
        compiled_kernels.of(LARGE_PAGES), beyond_the_caches(LARGE_PAGES)
    )
