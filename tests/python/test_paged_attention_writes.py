from typing import Any

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType

from kvcache.paged_attention import PagedAttentionCacheView
from paged_caches import ONE, bits, filled_view, prefill, rows, sizes
from paged_writes import WritesAgainstALoop


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
            "must be of the library of `key_pages`, got max, numpy",
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
