"""Every op on quantised pages, held against `kvcache.reference_quantized`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, batches, page_pairs, regimes
from kernels.quantized import QuantizedKernels
from kernels.quantized_checks import (
    check_attention,
    check_copy_pages,
    check_every_op,
    check_gather,
    check_rope_store,
    check_store,
)


@pytest.mark.parametrize("regime", REGIMES)
def test_ops_equal_reference_at_the_edges(
    quantized_kernels: QuantizedKernels, regime: str
) -> None:
    configuration = quantized_kernels.configuration
    check_every_op(quantized_kernels, regimes(configuration.page_size)[regime])


@given(st.data())
@settings(max_examples=30)
def test_store_equals_reference(
    quantized_kernels: QuantizedKernels, data: st.DataObject
) -> None:
    drawn = batches(quantized_kernels.configuration, longest_new=100, far=True)
    check_store(quantized_kernels, data.draw(drawn))


@given(st.data())
@settings(max_examples=30)
def test_rope_store_equals_reference(
    quantized_kernels: QuantizedKernels, data: st.DataObject
) -> None:
    configuration = quantized_kernels.configuration
    batch = data.draw(batches(configuration, longest_new=40))
    for rotation in configuration.rotations:
        check_rope_store(quantized_kernels, batch, rotation)


@given(st.data())
@settings(max_examples=30)
def test_gather_equals_reference(
    quantized_kernels: QuantizedKernels, data: st.DataObject
) -> None:
    drawn = batches(quantized_kernels.configuration, longest_new=40)
    check_gather(quantized_kernels, data.draw(drawn))


@given(st.data())
@settings(max_examples=30)
def test_attention_equals_reference(
    quantized_kernels: QuantizedKernels, data: st.DataObject
) -> None:
    configuration = quantized_kernels.configuration
    batch = data.draw(batches(configuration, longest_new=40))
    rules = data.draw(st.sampled_from(configuration.rules))
    check_attention(quantized_kernels, batch, rules)


@given(pairs=page_pairs(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5)
def test_copied_pages_take_their_scales_along(
    quantized_kernels: QuantizedKernels, pairs: np.ndarray, seed: int
) -> None:
    check_copy_pages(quantized_kernels, pairs, seed=seed)
