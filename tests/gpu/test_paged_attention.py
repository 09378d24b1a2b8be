"""Pages on a GPU, of MAX and of torch, are those of NumPy."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("wanted torch with CUDA", allow_module_level=True)

from kvcache.paged_attention import (  # noqa: E402
    DeviceMemory,
    Mesh,
    PagedAttentionCacheMetaData,
    PagedAttentionCacheView,
    PagedAttentionMetadata,
    PageQuantizer,
    PartitionAxis,
)
from kvcache.paged_attention.memory import memory_of  # noqa: E402

QUANTIZERS = [None, PageQuantizer("int8"), PageQuantizer("float8_e4m3fn")]


THERE = ["gpu:0", f"gpu:{int(torch.cuda.device_count() > 1)}"]
"""Two GPUs, where there are two."""
HERE = ["cpu:0", "cpu:0"]


def view(
    backend: str,
    devices: list[str],
    dtype: str,
    quantizer: PageQuantizer | None,
) -> PagedAttentionCacheView:
    mesh = Mesh(devices, "tp")
    metadata = PagedAttentionCacheMetaData.create(
        mesh,
        PartitionAxis(),
        4,
        2,
        64,
        16,
        4,
        32,
        0.5,
        dtype,
        memory=DeviceMemory((1 << 20) // len(set(devices))),
    )
    return PagedAttentionCacheView.init(
        mesh, metadata, 0, quantizer, backend=backend
    )


@pytest.mark.parametrize("backend", ["max", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_pages_are_those_of_numpy(
    backend: str, dtype: str, quantizer: PageQuantizer | None
) -> None:
    there = view(backend, THERE, dtype, quantizer)
    here = view("numpy", HERE, dtype, quantizer)
    step = PagedAttentionMetadata(
        20, np.arange(32), [3, 1], [17, -1, 5], [[2, 5], [4, 4], [6, 0]]
    )
    rng = np.random.default_rng(0)
    keys, values = rng.standard_normal((2, 35, 4, 32), np.float32)
    for each in (there, here):
        each.concatenate_to_cache(keys, values, step)
    mine, theirs = there.to_dict(), here.to_dict()
    for name in ("key_pages", "value_pages", "key_scales", "value_scales"):
        shards = mine[name] or ()
        for one, other, device in zip(
            shards, theirs[name] or (), THERE[: len(shards)], strict=True
        ):
            assert one["device"] == device
            assert one["data"] == other["data"]
    assert PagedAttentionCacheView.from_json(there.to_json()) == there
    found, wanted = (each.read_from_cache([3, 1], 20) for each in (there, here))
    for one, other in zip(found, wanted, strict=True):
        tensor = torch.from_dlpack(one) if backend == "max" else one
        assert tensor.is_cuda
        np.testing.assert_array_equal(tensor.float().cpu().numpy(), other)


@pytest.mark.parametrize("backend", ["max", "torch"])
def test_rows_of_the_gpu_are_written(backend: str) -> None:
    from max.driver import Buffer

    there, other = (view(backend, THERE, "bfloat16", None) for _ in range(2))
    step = PagedAttentionMetadata(
        16, np.arange(16), [3], np.int32(0), np.int32(0)
    )
    rows = torch.randn(16, 4, 32, device="cuda").bfloat16()
    given = Buffer.from_dlpack(rows) if backend == "max" else rows
    there.concatenate_to_cache(given, given, step)
    raw = rows.cpu().view(torch.int16).numpy().view(np.uint16)
    other.concatenate_to_cache(raw, raw, step)
    assert there == other


def test_the_memory_of_the_gpu_is_known() -> None:
    memory = memory_of("gpu:0")
    assert 0 <= memory.bytes_in_use < memory.bytes_reservable_limit
