"""A GPU's decode kernel: at most one new token of each sequence."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, Batch, batches, regimes
from kernels.checks import check_attention
from kernels.models import Kernels
from kernels.quantized import QuantizedKernels
from kernels.quantized_checks import check_attention as check_quantized


def decoding(batch: Batch) -> Batch:
    """Returns the batch with at most one new token of each sequence."""
    lengths = [(cached, min(new, 1)) for cached, new in batch.lengths]
    return replace(batch, lengths=lengths)


@pytest.mark.parametrize("regime", REGIMES)
def test_decode_equals_reference_at_the_edges(
    decode_kernels: Kernels, regime: str
) -> None:
    page_size = decode_kernels.configuration.page_size
    batch = decoding(regimes(page_size)[regime])
    for rules in decode_kernels.configuration.rules:
        check_attention(decode_kernels, batch, rules)


@given(st.data())
@settings(max_examples=60)
def test_decode_equals_reference(
    decode_kernels: Kernels, data: st.DataObject
) -> None:
    configuration = decode_kernels.configuration
    batch = data.draw(batches(configuration, longest_new=1, far=True))
    rules = data.draw(st.sampled_from(configuration.rules))
    check_attention(decode_kernels, batch, rules)


@pytest.mark.parametrize("regime", REGIMES)
def test_decode_of_codes_equals_reference_at_the_edges(
    quantized_decode_kernels: QuantizedKernels, regime: str
) -> None:
    configuration = quantized_decode_kernels.configuration
    batch = decoding(regimes(configuration.page_size)[regime])
    for rules in configuration.rules:
        check_quantized(quantized_decode_kernels, batch, rules)


@given(st.data())
@settings(max_examples=60)
def test_decode_of_codes_equals_reference(
    quantized_decode_kernels: QuantizedKernels, data: st.DataObject
) -> None:
    configuration = quantized_decode_kernels.configuration
    batch = data.draw(batches(configuration, longest_new=1, far=True))
    rules = data.draw(st.sampled_from(configuration.rules))
    check_quantized(quantized_decode_kernels, batch, rules)


def uneven(page_size: int, seed: int) -> Batch:
    """Returns one long context among more short ones than a warp has lanes."""
    rng = np.random.default_rng(seed)
    lengths = [
        (int(cached), int(new))
        for cached, new in zip(
            rng.integers(0, 400, 70), rng.integers(0, 2, 70), strict=True
        )
    ]
    lengths[40:40] = [(20_000 + seed, 1), (0, 1), (15, 1), (16, 1)]
    return Batch(lengths=lengths, page_size=page_size, seed=seed, spare_pages=2)


@pytest.mark.parametrize("seed", [0, 1])
def test_sequences_are_split_over_many_blocks(
    decode_kernels: Kernels, seed: int
) -> None:
    batch = uneven(decode_kernels.configuration.page_size, seed)
    for rules in decode_kernels.configuration.rules:
        check_attention(decode_kernels, batch, rules)
        # The counters are as they were: the next call finds its parts too.
        check_attention(decode_kernels, batch, rules)


def test_sequences_of_codes_are_split_over_many_blocks(
    quantized_decode_kernels: QuantizedKernels,
) -> None:
    configuration = quantized_decode_kernels.configuration
    batch = uneven(configuration.page_size, seed=2)
    for rules in configuration.rules:
        check_quantized(quantized_decode_kernels, batch, rules)
