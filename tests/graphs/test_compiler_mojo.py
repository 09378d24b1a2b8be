"""Compiled flows on the CPU compute what the numpy backend does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, batches, regimes
from kernels.flow_checks import check_scores, check_summaries
from kernels.flows import FlowKernels


@pytest.mark.parametrize("regime", REGIMES)
def test_flows_equal_numpy_at_the_edges(
    flow_kernels: FlowKernels, regime: str
) -> None:
    batch = regimes(flow_kernels.configuration.sizes.page_size)[regime]
    check_summaries(flow_kernels, batch)
    check_scores(flow_kernels, batch)


@given(st.data())
@settings(max_examples=15)
def test_summaries_equal_numpy(
    flow_kernels: FlowKernels, data: st.DataObject
) -> None:
    drawn = batches(flow_kernels.configuration.sizes, longest_new=300)
    check_summaries(flow_kernels, data.draw(drawn))


@given(st.data())
@settings(max_examples=15)
def test_scores_equal_numpy(
    flow_kernels: FlowKernels, data: st.DataObject
) -> None:
    drawn = batches(flow_kernels.configuration.sizes, longest_new=2)
    check_scores(flow_kernels, data.draw(drawn))
