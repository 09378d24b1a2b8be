"""Compiled flows on the CPU compute what the numpy backend does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, batches, regimes
from kernels.flow_checks import check_scores, check_summaries
from kernels.flow_store_checks import check_stores
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


@pytest.mark.parametrize("regime", REGIMES)
def test_stores_keep_summaries_at_the_edges(
    stored_flow_kernels: FlowKernels, regime: str
) -> None:
    sizes = stored_flow_kernels.configuration.sizes
    check_stores(stored_flow_kernels, regimes(sizes.page_size)[regime])


@given(st.data())
@settings(max_examples=10)
def test_stores_keep_summaries(
    stored_flow_kernels: FlowKernels, data: st.DataObject
) -> None:
    drawn = batches(stored_flow_kernels.configuration.sizes, longest_new=300)
    check_stores(stored_flow_kernels, data.draw(drawn))
