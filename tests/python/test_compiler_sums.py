from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flow_contexts import (
    Parent,
    Runner,
    indexer_context,
)
from kvcache.compiler import FORMAT, cache, indexer
from kvcache.compiler.vtensor import vTensor


@dataclass(frozen=True)
class FakeTorchDevice:
    type: str


class FakeTorchTensor:
    """What torch says of a tensor's memory."""

    def __init__(
        self, address: int, num_bytes: int, device: str = "cuda:0"
    ) -> None:
        self.device = FakeTorchDevice(device.partition(":")[0])
        self._memory = SimpleNamespace(
            data_ptr=lambda: address, nbytes=lambda: num_bytes
        )

    def untyped_storage(self) -> Any:
        return self._memory

    def element_size(self) -> int:
        return 2

    def nelement(self) -> int:
        return 5


def test_aux_memory_adds_bytes_and_arrays() -> None:
    ctx = cache.Context()
    array = np.zeros((3, 4), np.float32)
    described = vTensor((2, 3, 4), "float16", _format=FORMAT.PAGED, tensor_id=0)
    assert ctx.add_aux_memory(5) == 5
    assert ctx.add_aux_memory(array) == 48
    assert ctx.add_aux_memory(array[1:]) == 32  # shared, and counted again
    assert ctx.add_aux_memory(described) == 48
    assert ctx.add_aux_memory(FakeTorchTensor(0, 999)) == 10
    assert ctx.summary().aux_bytes == 5 + 48 + 32 + 48 + 10
    ctx.clear_aux_memory()
    assert ctx.summary().aux_bytes == 0


@pytest.mark.parametrize("given", [True, 1.5, "8", None, [1]])
def test_aux_memory_of_something_else_is_refused(given: Any) -> None:
    ctx = cache.Context()
    with pytest.raises(TypeError, match="wanted an int or an array"):
        ctx.add_aux_memory(given)
    with pytest.raises(TypeError, match="wanted an int"):
        ctx.add_aux_flops(given)
    assert (ctx.summary().aux_bytes, ctx.summary().aux_flops) == (0, 0)


def test_negative_counts_are_refused() -> None:
    ctx = cache.Context()
    with pytest.raises(ValueError, match="got -1"):
        ctx.add_aux_memory(-1)
    with pytest.raises(ValueError, match="got -2"):
        ctx.add_aux_flops(-2)
    assert (ctx.summary().aux_bytes, ctx.summary().aux_flops) == (0, 0)


def test_aux_flops_add_up_and_clear() -> None:
    ctx = cache.Context()
    assert ctx.add_aux_flops(3) is None
    ctx.add_aux_flops(4)
    assert ctx.summary().aux_flops == 7
    ctx.clear_aux_flops()
    assert ctx.summary().aux_flops == 0


def test_summary_counts_shared_storage_once() -> None:
    ctx = indexer_context()
    base = np.zeros(100, np.int32)
    ctx.dense_kv_indices = base[:40]
    ctx.dense_kv_indptr = base[40:50].reshape(2, 5)
    ctx.sparse_kv_indices = np.zeros(7, np.int64)
    ctx.sparse_kv_indptr = [
        FakeTorchTensor(4096, 300),
        {"view": FakeTorchTensor(4096, 300)},
        FakeTorchTensor(8192, 20),
        FakeTorchTensor(64, 11, "cpu"),
    ]
    summary = ctx.summary()
    assert summary.host_bytes == 400 + 56 + 11
    assert summary.device_bytes == 320


def test_summary_reads_well_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ctx = indexer_context()
    ctx.dense_kv_indices = np.zeros(3 << 19, np.int32)
    ctx.sparse_kv_indices = FakeTorchTensor(0, 100)
    ctx.add_aux_memory(3 << 40)
    ctx.add_aux_flops(1234567)
    lines = str(ctx.summary()).splitlines()
    assert capsys.readouterr().out == ""
    assert [line.split() for line in lines] == [
        ["Context", "Indexer"],
        ["device", "arrays", "100", "B"],
        ["host", "arrays", "6.0", "MiB"],
        ["auxiliary", "memory", "3.0", "TiB"],
        ["auxiliary", "flops", "1,234,567"],
    ]


def test_real_arrays_of_every_library_are_counted() -> None:
    from max.driver import Buffer
    from max.dtype import DType

    ctx = indexer_context()
    ctx.dense_kv_indices = Buffer.zeros((4, 5), DType.int32)
    ctx.add_aux_memory(ctx.dense_kv_indices)
    assert ctx.summary().host_bytes == ctx.summary().aux_bytes == 80


def test_torch_tensors_are_counted_by_storage() -> None:
    torch = pytest.importorskip("torch")
    ctx = indexer_context()
    whole = torch.zeros(10, 4)
    ctx.dense_kv_indices, ctx.dense_kv_indptr = whole[:2], whole[5:]
    assert ctx.summary().host_bytes == 160
    assert ctx.add_aux_memory(whole[:2]) == 32
    runner: Any = Runner(
        SimpleNamespace(max_prefill_tokens=4, vortex_dtype=torch.float16)
    )
    ctx = indexer.Context().create(Parent(), runner)
    assert ctx.vortex_dtype == "float16"
