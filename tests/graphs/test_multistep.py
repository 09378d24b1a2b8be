import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType

from kernels.configuration import ONNX_FLOAT32
from kernels.models import CompiledKernels
from managers import HOST
from multistep import check_sixteen_steps, forbid


def test_sixteen_steps_need_no_host_work_but_the_increment(
    compiled_kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = compiled_kernels.models[f"{ONNX_FLOAT32}_store"]
    check_sixteen_steps(HOST, monkeypatch, store)


def test_the_refusal_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Buffer.zeros((1,), DType.float32, HOST)
    with monkeypatch.context() as patch:
        forbid(patch, HOST)
        with pytest.raises(AssertionError, match="no host copy"):
            Buffer.from_numpy(np.zeros(1, np.float32))
        with pytest.raises(AssertionError, match="no host copy"):
            held.to_numpy()
