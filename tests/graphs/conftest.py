"""The kernels on the CPU, compiled once for all tests of the session."""

import pytest

from kernels.configuration import COVERING
from kernels.flow_configuration import FLOWS, STORED_ON_CPU
from kernels.flows import FlowKernels
from kernels.host_graphs import kernels_on_host, sparse_kernels_on_host
from kernels.latent_configuration import LATENTS, QUANTIZED_LATENTS
from kernels.latents import LatentKernels
from kernels.max_attention import ON_CPU
from kernels.models import CompiledKernels, Kernels
from kernels.quantized import QuantizedKernels
from kernels.quantized_configuration import QUANTIZED
from kernels.sparse import SparseKernels
from kernels.sparse_configuration import CASES, CHOOSES_MANY


@pytest.fixture(scope="session")
def compiled_kernels() -> CompiledKernels:
    return kernels_on_host()


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


@pytest.fixture(scope="session")
def compiled_sparse_kernels() -> CompiledKernels:
    return sparse_kernels_on_host()


@pytest.fixture(scope="session", params=CASES, ids=str)
def sparse_kernels(
    compiled_sparse_kernels: CompiledKernels, request: pytest.FixtureRequest
) -> SparseKernels:
    case = request.param
    return SparseKernels(case, compiled_sparse_kernels.of(case.configuration))


@pytest.fixture(scope="session")
def many_kernels(compiled_sparse_kernels: CompiledKernels) -> SparseKernels:
    return SparseKernels(
        CHOOSES_MANY, compiled_sparse_kernels.of(CHOOSES_MANY.configuration)
    )


@pytest.fixture(scope="session", params=FLOWS, ids=str)
def flow_kernels(
    compiled_sparse_kernels: CompiledKernels, request: pytest.FixtureRequest
) -> FlowKernels:
    return FlowKernels(request.param, compiled_sparse_kernels)


@pytest.fixture(scope="session", params=STORED_ON_CPU, ids=str)
def stored_flow_kernels(
    compiled_sparse_kernels: CompiledKernels, request: pytest.FixtureRequest
) -> FlowKernels:
    return FlowKernels(request.param, compiled_sparse_kernels)


@pytest.fixture(scope="session", params=ON_CPU, ids=str)
def max_kernels(
    compiled_sparse_kernels: CompiledKernels, request: pytest.FixtureRequest
) -> Kernels:
    return compiled_sparse_kernels.of(request.param)
