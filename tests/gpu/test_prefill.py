"""A GPU's prefill kernel: sequences with several new tokens, or with few."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, Batch, chunked, regimes
from kernels.checks import check_attention
from kernels.models import Kernels
from kernels.quantized import QuantizedKernels
from kernels.quantized_checks import check_attention as check_quantized


def spanning(page_size: int, seed: int) -> Batch:
    """Returns chunks of several tiles among sequences with few new tokens."""
    lengths = [(0, 300), (130, 131), (17, 1), (64, 0), (1, 65), (500, 3)]
    return Batch(lengths=lengths, page_size=page_size, seed=seed, spare_pages=1)


def crowded(page_size: int, seed: int) -> Batch:
    """Returns several tiles for each multiprocessor, some without rows."""
    lengths = [
        (600 if i % 40 == 0 else 37 * i % 150, 61 * i % 9) for i in range(400)
    ]
    return Batch(lengths=lengths, page_size=page_size, seed=seed, spare_pages=1)


@pytest.mark.parametrize("regime", REGIMES)
def test_prefill_equals_reference_at_the_edges(
    prefill_kernels: Kernels, regime: str
) -> None:
    batch = regimes(prefill_kernels.configuration.page_size)[regime]
    for rules in prefill_kernels.configuration.rules:
        check_attention(prefill_kernels, batch, rules)


def test_chunks_span_tiles(prefill_kernels: Kernels) -> None:
    batch = spanning(prefill_kernels.configuration.page_size, seed=1)
    for rules in prefill_kernels.configuration.rules:
        check_attention(prefill_kernels, batch, rules)


def test_blocks_serve_several_tiles(prefill_kernels: Kernels) -> None:
    batch = crowded(prefill_kernels.configuration.page_size, seed=3)
    for rules in prefill_kernels.configuration.rules:
        check_attention(prefill_kernels, batch, rules)


@given(st.data())
@settings(max_examples=10)
def test_prefill_equals_reference(
    prefill_kernels: Kernels, data: st.DataObject
) -> None:
    batch = data.draw(chunked(prefill_kernels.configuration))
    rules = data.draw(st.sampled_from(prefill_kernels.configuration.rules))
    check_attention(prefill_kernels, batch, rules)


@pytest.mark.parametrize("regime", REGIMES)
def test_prefill_of_codes_equals_reference_at_the_edges(
    quantized_prefill_kernels: QuantizedKernels, regime: str
) -> None:
    configuration = quantized_prefill_kernels.configuration
    batch = regimes(configuration.page_size)[regime]
    for rules in configuration.rules:
        check_quantized(quantized_prefill_kernels, batch, rules)


def test_chunks_of_codes_span_tiles(
    quantized_prefill_kernels: QuantizedKernels,
) -> None:
    configuration = quantized_prefill_kernels.configuration
    batch = spanning(configuration.page_size, seed=2)
    for rules in configuration.rules:
        check_quantized(quantized_prefill_kernels, batch, rules)


@given(st.data())
@settings(max_examples=10)
def test_prefill_of_codes_equals_reference(
    quantized_prefill_kernels: QuantizedKernels, data: st.DataObject
) -> None:
    configuration = quantized_prefill_kernels.configuration
    batch = data.draw(chunked(configuration))
    rules = data.draw(st.sampled_from(configuration.rules))
    check_quantized(quantized_prefill_kernels, batch, rules)
