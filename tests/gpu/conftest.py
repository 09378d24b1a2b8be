"""The kernels on a GPU, compiled here or loaded from `KVCACHE_MEF_FOLDER`."""

import pytest
from max.driver import Accelerator

from kernels.configuration import COVERING
from kernels.models import CompiledKernels, Kernels, kernels_on


@pytest.fixture(scope="session")
def compiled_kernels() -> CompiledKernels:
    return kernels_on(Accelerator(), COVERING)


@pytest.fixture(scope="session", params=COVERING, ids=str)
def kernels(
    compiled_kernels: CompiledKernels, request: pytest.FixtureRequest
) -> Kernels:
    return compiled_kernels.of(request.param)
