"""What `tests/graphs` holds on the CPU holds on a GPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max.driver import Buffer
from max.dtype import DType

from kernels.batch import REGIMES, batches, page_pairs, regimes, row_offsets
from kernels.canary import check_canary
from kernels.checks import (
    check_attention,
    check_copy_pages,
    check_gather,
    check_rope_store,
    check_store,
)
from kernels.configuration import LARGE_PAGES
from kernels.large_pool import SHAPE, check_large_pool
from kernels.models import CompiledKernels, Kernels
from kernels.rope_shift import check_compaction, check_rope_shift


@pytest.mark.parametrize("regime", REGIMES)
def test_ops_equal_reference_at_the_edges(
    kernels: Kernels, regime: str
) -> None:
    batch = regimes(kernels.configuration.page_size)[regime]
    check_store(kernels, batch)
    for rotation in kernels.configuration.rotations:
        check_rope_store(kernels, batch, rotation)
    check_gather(kernels, batch)
    for rules in kernels.configuration.rules:
        check_attention(kernels, batch, rules)


@given(st.data())
@settings(max_examples=60)
def test_store_equals_reference(kernels: Kernels, data: st.DataObject) -> None:
    drawn = batches(kernels.configuration, longest_new=300, far=True)
    check_store(kernels, data.draw(drawn))


@given(st.data())
@settings(max_examples=60)
def test_rope_store_equals_reference(
    kernels: Kernels, data: st.DataObject
) -> None:
    batch = data.draw(batches(kernels.configuration, longest_new=60, far=True))
    for rotation in kernels.configuration.rotations:
        check_rope_store(kernels, batch, rotation)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_rope_shift_equals_reference(kernels: Kernels, seed: int) -> None:
    for rotation in kernels.configuration.rotations:
        check_rope_shift(kernels, rotation, seed=seed)
        check_compaction(kernels, rotation)


@given(st.data())
@settings(max_examples=60)
def test_gather_equals_reference(kernels: Kernels, data: st.DataObject) -> None:
    check_gather(
        kernels, data.draw(batches(kernels.configuration, longest_new=40))
    )


@given(st.data())
@settings(max_examples=60)
def test_attention_equals_reference(
    kernels: Kernels, data: st.DataObject
) -> None:
    batch = data.draw(batches(kernels.configuration, longest_new=40))
    rules = data.draw(st.sampled_from(kernels.configuration.rules))
    check_attention(kernels, batch, rules)


@given(pairs=page_pairs(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_copy_pages_equals_reference(
    kernels: Kernels, pairs: np.ndarray, seed: int
) -> None:
    check_copy_pages(kernels, pairs, seed=seed)


def test_memory_that_nobody_wrote_reaches_no_output(kernels: Kernels) -> None:
    check_canary(kernels)


def test_increment_adds_each_sequence_its_own_tokens(
    compiled_kernels: CompiledKernels,
) -> None:
    actual = compiled_kernels.increment(
        np.array([7, 0, 2**32 - 2], np.uint32), row_offsets([5, 0, 1])
    )
    assert actual.tolist() == [12, 0, 2**32 - 1]


def test_offsets_past_32_bits_reach_their_pages(
    compiled_kernels: CompiledKernels,
) -> None:
    pool = Buffer.zeros(SHAPE, DType.bfloat16, compiled_kernels.device)
    check_large_pool(compiled_kernels.of(LARGE_PAGES), pool)
