"""What `tests/graphs/test_latents.py` holds on the CPU holds on a GPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, batches, page_pairs, regimes
from kernels.checks import check_attention, check_copy_pages
from kernels.latent_attention import check_absorbed
from kernels.latent_configuration import DEEPSEEK_FLOAT32
from kernels.latents import LatentKernels, check_gather, check_store
from kernels.models import CompiledKernels
from kernels.quantized import QuantizedKernels
from kernels.quantized_checks import check_copy_pages as check_copies_of_codes
from kernels.quantized_latents import check_every_op as check_quantized
from kernels.rope_shift import check_rope_shift


@pytest.mark.parametrize("regime", REGIMES)
def test_ops_equal_reference_at_the_edges(
    latent_kernels: LatentKernels, regime: str
) -> None:
    kernels = latent_kernels.kernels
    batch = regimes(kernels.configuration.page_size)[regime]
    check_store(latent_kernels, batch)
    check_gather(latent_kernels, batch)
    for rules in kernels.configuration.rules:
        check_attention(kernels, batch, rules)


@given(st.data())
@settings(max_examples=40)
def test_rows_equal_reference(
    latent_kernels: LatentKernels, data: st.DataObject
) -> None:
    configuration = latent_kernels.kernels.configuration
    batch = data.draw(batches(configuration, longest_new=60, far=True))
    check_store(latent_kernels, batch)
    check_gather(latent_kernels, batch)


@given(st.data())
@settings(max_examples=30)
def test_attention_equals_reference(
    latent_kernels: LatentKernels, data: st.DataObject
) -> None:
    kernels = latent_kernels.kernels
    batch = data.draw(batches(kernels.configuration, longest_new=5))
    rules = data.draw(st.sampled_from(kernels.configuration.rules))
    check_attention(kernels, batch, rules)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_rotated_part_turns_and_no_other(
    latent_kernels: LatentKernels, seed: int
) -> None:
    for rotation in latent_kernels.kernels.configuration.rotations:
        check_rope_shift(latent_kernels.kernels, rotation, seed=seed)


@given(pairs=page_pairs(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_copy_pages_equals_reference(
    latent_kernels: LatentKernels, pairs: np.ndarray, seed: int
) -> None:
    check_copy_pages(latent_kernels.kernels, pairs, seed=seed)


@pytest.mark.parametrize("regime", REGIMES)
def test_ops_on_codes_equal_reference_at_the_edges(
    quantized_latent_kernels: QuantizedKernels, regime: str
) -> None:
    page_size = quantized_latent_kernels.configuration.page_size
    check_quantized(quantized_latent_kernels, regimes(page_size)[regime])


@given(st.data())
@settings(max_examples=30)
def test_ops_on_codes_equal_reference(
    quantized_latent_kernels: QuantizedKernels, data: st.DataObject
) -> None:
    configuration = quantized_latent_kernels.configuration
    batch = data.draw(batches(configuration, longest_new=5))
    check_quantized(quantized_latent_kernels, batch)


@given(pairs=page_pairs(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=3)
def test_copied_pages_take_their_scales_along(
    quantized_latent_kernels: QuantizedKernels, pairs: np.ndarray, seed: int
) -> None:
    check_copies_of_codes(quantized_latent_kernels, pairs, seed=seed)


def test_latents_give_what_multi_head_attention_gives(
    compiled_kernels: CompiledKernels,
) -> None:
    check_absorbed(LatentKernels(compiled_kernels.of(DEEPSEEK_FLOAT32)))
