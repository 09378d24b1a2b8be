"""Compiled flows on a GPU compute what the numpy backend does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max.driver import Accelerator

from kernels.batch import REGIMES, Batch, batches, regimes
from kernels.flow_checks import check_scores, check_summaries
from kernels.flow_configuration import ON_GPU
from kernels.flow_store_checks import check_stores
from kernels.flows import FlowKernels, flow_kernels_on
from kernels.models import CompiledKernels


@pytest.fixture(scope="module")
def compiled_flows() -> CompiledKernels:
    return flow_kernels_on(Accelerator(), ON_GPU)


@pytest.fixture(scope="module", params=ON_GPU, ids=str)
def flow_kernels(
    compiled_flows: CompiledKernels, request: pytest.FixtureRequest
) -> FlowKernels:
    return FlowKernels(request.param, compiled_flows)


@pytest.mark.parametrize("regime", REGIMES)
def test_flows_equal_numpy_at_the_edges(
    flow_kernels: FlowKernels, regime: str
) -> None:
    batch = regimes(flow_kernels.configuration.sizes.page_size)[regime]
    check_summaries(flow_kernels, batch)
    check_scores(flow_kernels, batch)
    check_stores(flow_kernels, batch)


def test_more_sequences_than_threads_keep_summaries(
    flow_kernels: FlowKernels,
) -> None:
    configuration = flow_kernels.configuration
    page, block = configuration.sizes.page_size, configuration.block_size
    single = [(cached % page, 1) for cached in range(150)]
    # No more rows than sequences, so that it counts as a decode step.
    several = [(block - 1, 2 * block), *[(0, 0)] * (2 * block)]
    check_stores(
        flow_kernels, Batch(lengths=[*single, *several], page_size=page)
    )


def test_sequences_complete_several_blocks(flow_kernels: FlowKernels) -> None:
    configuration = flow_kernels.configuration
    page, block = configuration.sizes.page_size, configuration.block_size
    # Still no more rows than sequences.
    lengths = [(page - 1, 1), (3, 0), (block - 5, 2 * block + 7)]
    lengths += [(block - 1, 1), *[(0, 0)] * (2 * block + 5)]
    check_stores(flow_kernels, Batch(lengths=lengths, page_size=page))


@pytest.mark.parametrize("batch_size", [33, 100, 128, 129])
def test_lanes_with_several_sequences_find_their_blocks(
    flow_kernels: FlowKernels, batch_size: int
) -> None:
    configuration = flow_kernels.configuration
    page, block = configuration.sizes.page_size, configuration.block_size
    lengths = [((7 * seq) % page, 0) for seq in range(batch_size)]
    for seq in range(5, batch_size, 32):
        # One lane of a warp looks at all of these, and one at those behind.
        lengths[seq] = (block - 1 + seq // 32 * block, 1)
        lengths[seq + 1] = (page - 1 if seq > 64 else page, 1)
    if block + 10 <= batch_size:
        lengths[6] = (3, block)
    lengths[-1] = (2 * block - 1, 1)
    check_stores(flow_kernels, Batch(lengths=lengths, page_size=page))


def test_many_short_prompts_keep_summaries(flow_kernels: FlowKernels) -> None:
    # More blocks of keys than a GPU holds at once: they are stored otherwise.
    page = flow_kernels.configuration.sizes.page_size
    lengths = [(cached % page, 2) for cached in range(300)]
    check_stores(flow_kernels, Batch(lengths=lengths, page_size=page))


@given(st.data())
@settings(max_examples=40)
def test_summaries_equal_numpy(
    flow_kernels: FlowKernels, data: st.DataObject
) -> None:
    drawn = batches(flow_kernels.configuration.sizes, longest_new=300)
    check_summaries(flow_kernels, data.draw(drawn))


@given(st.data())
@settings(max_examples=40)
def test_scores_equal_numpy(
    flow_kernels: FlowKernels, data: st.DataObject
) -> None:
    drawn = batches(flow_kernels.configuration.sizes, longest_new=2)
    check_scores(flow_kernels, data.draw(drawn))


@given(st.data())
@settings(max_examples=40)
def test_stores_keep_summaries(
    flow_kernels: FlowKernels, data: st.DataObject
) -> None:
    drawn = batches(flow_kernels.configuration.sizes, longest_new=700)
    check_stores(flow_kernels, data.draw(drawn))


@given(st.data())
@settings(max_examples=40)
def test_decode_steps_keep_summaries(
    flow_kernels: FlowKernels, data: st.DataObject
) -> None:
    drawn = batches(flow_kernels.configuration.sizes, longest_new=1)
    check_stores(flow_kernels, data.draw(drawn))
