"""The kernels on the CPU, compiled once for all tests of the session."""

import pytest
from max.driver import CPU

from kernels.configuration import COVERING
from kernels.latent_configuration import LATENTS, QUANTIZED_LATENTS
from kernels.latents import LatentKernels
from kernels.models import CompiledKernels, Kernels, kernels_on
from kernels.quantized import QuantizedKernels
from kernels.quantized_configuration import COMPILED, QUANTIZED


@pytest.fixture(scope="session")
def compiled_kernels() -> CompiledKernels:
    return kernels_on(CPU(), COMPILED)


@pytest.fixture(scope="session", params=COVERING, ids=str)
def kernels(
    compiled_kernels: CompiledKernels, request: pytest.FixtureRequest
) -> Kernels:
    return compiled_kernels.of(request.param)


@pytest.fixture(scope="session", params=QUANTIZED, ids=str)
def quantized_kernels(
    compiled_kernels: CompiledKernels, request: pytest.FixtureRequest
) -> QuantizedKernels:
    return QuantizedKernels(compiled_kernels.of(request.param))


@pytest.fixture(scope="session", params=LATENTS, ids=str)
def latent_kernels(
    compiled_kernels: CompiledKernels, request: pytest.FixtureRequest
) -> LatentKernels:
    return LatentKernels(compiled_kernels.of(request.param))


@pytest.fixture(scope="session", params=QUANTIZED_LATENTS, ids=str)
def quantized_latent_kernels(
    compiled_kernels: CompiledKernels, request: pytest.FixtureRequest
) -> QuantizedKernels:
    return QuantizedKernels(compiled_kernels.of(request.param))
