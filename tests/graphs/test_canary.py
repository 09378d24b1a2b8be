from kernels.canary import check_canary
from kernels.models import Kernels


def test_memory_that_nobody_wrote_reaches_no_output(kernels: Kernels) -> None:
    check_canary(kernels)
