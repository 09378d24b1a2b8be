import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType

from kvcache.errors import MissingPackageError
from kvcache.paged_attention import PagedAttentionCacheView
from paged_caches import ONE, bits, filled_view, prefill, rows, sizes
from paged_writes import WritesAgainstALoop
from paths import ROOT


class TestNumpy(WritesAgainstALoop):
    backend = "numpy"


class TestMax(WritesAgainstALoop):
    backend = "max"

    def own(self, array: Any) -> Buffer:
        if array.dtype.name != "bfloat16":
            return Buffer.from_numpy(np.array(array))
        raw = Buffer.from_numpy(np.array(array).view(np.uint16))
        return raw.view(DType.bfloat16, raw.shape)


@pytest.mark.parametrize("backend", ["numpy", "max"])
def test_uint16_is_the_bits_of_bfloat16(backend: str) -> None:
    view = filled_view(sizes(dtype="bfloat16"), backend=backend)
    raw = np.arange(4 * 2 * 8, dtype=np.uint16).reshape(4, 2, 8)
    view.concatenate_to_cache(raw, raw, prefill(4, [3]))
    np.testing.assert_array_equal(bits(view.key_pages)[:, 3, 1], raw[1])


def test_pages_of_numpy_are_arrays_and_those_of_max_buffers() -> None:
    kinds = {"numpy": np.ndarray, "max": Buffer}
    for backend, kind in kinds.items():
        view = PagedAttentionCacheView.init(
            ONE, sizes(dtype="bfloat16"), 1, backend=backend
        )
        assert type(view.key_pages) is kind
        assert tuple(view.value_pages.shape) == (2, 9, 4, 8)
        assert not bits(view.key_pages).any()
        assert view.layer_index == 1
    assert view.key_pages.dtype == DType.bfloat16


def test_a_slice_of_a_buffer_is_refused() -> None:
    view, untouched = (filled_view(sizes(), backend="max") for _ in range(2))
    slices = Buffer.from_numpy(np.zeros((4, 2, 9), np.float32))[:, :, :8]
    for arrays in [(slices, rows(4)), (rows(4), slices)]:
        with pytest.raises(ValueError, match="wanted a contiguous buffer"):
            view.concatenate_to_cache(*arrays, prefill(4, [1]))
    assert view == untouched


def test_max_is_the_default() -> None:
    view = PagedAttentionCacheView.init(ONE, sizes(), 0)
    assert isinstance(view.key_pages, Buffer)


def test_a_view_takes_arrays_that_are_there() -> None:
    made = PagedAttentionCacheView.init(ONE, sizes(), 0, backend="numpy")
    keys, values = np.zeros((2, 9, 4, 8), np.float32), made.value_pages
    view = made.replace(key_pages=keys)
    view.concatenate_to_cache(rows(4), rows(4), prefill(4, [1]))
    np.testing.assert_array_equal(keys[:, 1, 2], rows(4)[2])
    assert view.value_pages is values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_index": 2}, "`layer_index` must be from 0 to 1, got 2"),
        ({"layer_index": -1}, "`layer_index` must be from 0 to 1, got -1"),
        ({"layer_index": 0.0}, "`layer_index` must be an integer"),
        ({"metadata": None}, "`metadata` must be a PagedAttentionCacheMeta"),
        ({"kv_pages_sharding": None}, "`kv_pages_sharding` must be a Named"),
        ({"quantizer": "int8"}, "`quantizer` must be a PageQuantizer"),
        ({"key_pages": None}, "`key_pages` must be arrays of NumPy"),
        ({"key_pages": []}, "`key_pages` must be one array for each of 1 dev"),
        ({"key_pages": np.zeros((2, 9, 4, 7), "f")}, "on cpu:0, got float32"),
        ({"value_pages": np.zeros((2, 9, 4, 8))}, "got float64 of shape"),
        ({"value_pages": np.zeros((2, 9, 4, 8), ">f4")}, "byte order"),
        (
            {"value_pages": np.broadcast_to(np.float32(0), (2, 9, 4, 8))},
            "`value_pages` must be writable",
        ),
        (
            {"value_pages": Buffer.zeros((2, 9, 4, 8), DType.float32)},
            "`value_pages` must be of one library, got max, numpy",
        ),
        ({"key_scales": np.zeros(1)}, "`key_scales` must be None"),
    ],
)
def test_a_view_refuses_what_does_not_fit(
    changes: dict[str, Any], message: str
) -> None:
    view = PagedAttentionCacheView.init(ONE, sizes(), 0, backend="numpy")
    with pytest.raises(ValueError, match=message):
        view.replace(**changes)


def test_keys_and_values_are_not_one_array() -> None:
    view = PagedAttentionCacheView.init(ONE, sizes(), 0, backend="numpy")
    with pytest.raises(ValueError, match="must be different arrays"):
        view.replace(value_pages=view.key_pages)


def test_a_library_loads_when_it_is_chosen() -> None:
    code = """
import sys
from kvcache.paged_attention import *
axes, memory = PartitionAxis(), DeviceMemory(1 << 20)
sizes = PagedAttentionCacheMetaData.create(
    Mesh("cpu", "tp"), axes, 1, 1, 8, 4, 1, 8, 0.5, memory=memory
)
mesh = Mesh("cpu", "tp")
cache = PagedAttentionCache.init_cache(mesh, sizes, backend="numpy")
assert PagedAttentionCache.from_json(cache.to_json()) == cache
print({"max", "torch", "ml_dtypes"} & set(sys.modules))
"""
    path = os.pathsep.join([str(ROOT / "python"), *sys.path])
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "set()\n", "")


def test_a_library_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = "kvcache.paged_attention.torch_backend"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match="torch tensors want torch"):
        PagedAttentionCacheView.init(ONE, sizes(), 0, backend="torch")


@pytest.mark.parametrize("backend", ["jax", "", None, 3, ["max"]])
def test_an_unknown_backend_is_refused(backend: Any) -> None:
    with pytest.raises(ValueError, match="`backend` must be one of max, torch"):
        PagedAttentionCacheView.init(ONE, sizes(), 0, backend=backend)


@pytest.mark.parametrize(
    ("table", "length", "message"),
    [
        ([1], 5, "must have at least 2 pages"),
        ([1], -1, "must have at least 0 pages"),
        ([[1]], 4, "pages on one axis for 4 tokens, got shape .1, 1."),
        ([9], 4, "wanted a page from 0 to 8, got 9"),
        ([1.0], 4, "`page_table` must be an array of integers"),
        ([1], 4.0, "`length` must be an integer"),
    ],
)
def test_a_read_that_does_not_fit_is_refused(
    table: Any, length: Any, message: str
) -> None:
    view = PagedAttentionCacheView.init(ONE, sizes(), 0, backend="numpy")
    with pytest.raises(ValueError, match=message):
        view.read_from_cache(table, length)
