"""Every combination of sizes, where the other tests have a covering list."""

import numpy as np
import pytest
from max.driver import CPU

from kernels.batch import regimes
from kernels.checks import (
    check_attention,
    check_copy_pages,
    check_gather,
    check_rope_store,
    check_store,
)
from kernels.configuration import PAGE_SIZES, full_product
from kernels.latent_configuration import full_latent_product
from kernels.latents import LatentKernels
from kernels.latents import check_gather as check_gather_latents
from kernels.latents import check_store as check_store_latents
from kernels.models import Kernels, kernels_on
from kernels.quantized import QuantizedKernels
from kernels.quantized_checks import check_every_op as check_quantized_ops
from kernels.quantized_configuration import full_quantized_product
from kernels.rope_shift import check_rope_shift

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_configuration_equals_reference(
    dtype: str, page_size: int
) -> None:
    configurations = list(full_product(dtype, page_size))
    compiled = kernels_on(CPU(), configurations)
    for configuration in configurations:
        try:
            check_every_op(compiled.of(configuration))
        except AssertionError as error:
            error.add_note(str(configuration))
            raise


def check_every_op(kernels: Kernels) -> None:
    for batch in regimes(kernels.configuration.page_size).values():
        check_store(kernels, batch)
        for rotation in kernels.configuration.rotations:
            check_rope_store(kernels, batch, rotation)
        check_gather(kernels, batch)
        for rules in kernels.configuration.rules:
            check_attention(kernels, batch, rules)
    check_copy_pages(kernels, np.array([(0, 2), (1, 3)], np.uint32))


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "float8_e5m2"])
def test_every_quantized_configuration_equals_reference(
    dtype: str, page_size: int
) -> None:
    configurations = list(full_quantized_product(dtype, page_size))
    compiled = kernels_on(CPU(), configurations)
    for configuration in configurations:
        kernels = QuantizedKernels(compiled.of(configuration))
        for batch in regimes(page_size).values():
            try:
                check_quantized_ops(kernels, batch)
            except AssertionError as error:
                error.add_note(str(configuration))
                raise


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_configuration_of_latents_equals_reference(
    dtype: str, page_size: int
) -> None:
    configurations = list(full_latent_product(dtype, page_size))
    compiled = kernels_on(CPU(), configurations)
    for configuration in configurations:
        try:
            check_latents(LatentKernels(compiled.of(configuration)))
        except AssertionError as error:
            error.add_note(str(configuration))
            raise


def check_latents(latents: LatentKernels) -> None:
    kernels = latents.kernels
    for batch in regimes(kernels.configuration.page_size).values():
        check_store_latents(latents, batch)
        check_gather_latents(latents, batch)
        for rules in kernels.configuration.rules:
            check_attention(kernels, batch, rules)
    for rotation in kernels.configuration.rotations:
        check_rope_shift(kernels, rotation, seed=0)
    check_copy_pages(kernels, np.array([(0, 2), (1, 3)], np.uint32))
