"""Pages of 8 bits against the reference that the kernels are held to."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kvcache import reference_quantized
from kvcache.paged_attention import (
    PagedAttentionCache,
    PagedAttentionCacheView,
    PageQuantizer,
)
from kvcache.paged_attention.numpy_codes import NumpyCodes
from kvcache.quantization import (
    QUANTIZED_DTYPES,
    Granularity,
    Quantization,
)
from paged_caches import (
    ONE,
    bits,
    decode,
    floats,
    mixed,
    prefill,
    rows,
    sizes,
)

BACKENDS = ["numpy", "max", "torch"]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", QUANTIZED_DTYPES)
STEP = mixed(prefill(6, [8, 2]), decode([3, -1], [[1], [5]]))
PLACES = [
    *((row, 8, row) for row in range(4)),
    *((row, 2, row - 4) for row in (4, 5)),
    (8, 1, 3),
]
"""Row, page and slot."""


def made(backend: str, *args: Any, **options: Any) -> PagedAttentionCacheView:
    if backend == "torch":
        pytest.importorskip("torch")
    metadata = sizes(dtype=options.pop("row_dtype", "float32"))
    return PagedAttentionCacheView.init(
        ONE, metadata, 0, PageQuantizer(*args), backend=backend, **options
    )


@each_backend
@each_dtype
@pytest.mark.parametrize("group_size", [None, 8])
@pytest.mark.parametrize("row_dtype", ["float32", "bfloat16"])
def test_tokens_are_kept_as_the_reference_keeps_them(
    backend: str, dtype: str, group_size: int | None, row_dtype: str
) -> None:
    view = made(
        backend,
        dtype,
        Quantization(group_size=group_size),
        row_dtype=row_dtype,
    )
    keys, values = rows(10, 1, row_dtype), rows(10, 2, row_dtype)
    keys[0] = 0
    view.concatenate_to_cache(keys, values, STEP)
    for given_rows, pages, scales in (
        (keys, view.key_pages, view.key_scales),
        (values, view.value_pages, view.value_scales),
    ):
        codes = np.zeros((2, 9, 4, 8), np.uint8)
        factors = np.zeros((2, 9, 4, 1), np.float32)
        for row, page, slot in PLACES:
            heads = given_rows[row].astype(np.float32)[:, None]
            scale = reference_quantized.scale_of(heads, dtype)
            found = reference_quantized.quantize(heads, scale[..., None], dtype)
            codes[:, page, slot] = found[:, 0]
            factors[:, page, slot] = scale
        np.testing.assert_array_equal(bits(pages), codes)
        np.testing.assert_array_equal(bits(scales).view(np.float32), factors)
        # What is read is what the codes mean.
        meant = reference_quantized.CODES[dtype][codes] * factors
        found = view.read_from_cache([8, 2], 6)[0 if given_rows is keys else 1]
        wanted = np.concatenate([meant[:, 8], meant[:, 2, :2]], axis=1)
        rounded = wanted.swapaxes(0, 1).astype(keys.dtype)
        np.testing.assert_array_equal(floats(found, row_dtype), rounded)


@each_backend
@each_dtype
@pytest.mark.parametrize("granularity", ["tensor", "head"])
def test_measured_scales_are_those_of_all_tokens(
    backend: str, dtype: str, granularity: str
) -> None:
    heads = 1 if granularity == "tensor" else 2
    scales = np.array([[0.5, 0.25], [0.125, 2]], np.float32)[:, :heads]
    view = made(
        backend,
        dtype,
        Quantization(granularity=Granularity(granularity)),
        scales=scales,
    )
    keys, values = rows(10, 1), rows(10, 2)
    view.concatenate_to_cache(keys, values, STEP)
    wide = np.broadcast_to(scales, (2, 2))
    for given_rows, pages, scale in (
        (keys, view.key_pages, wide[0]),
        (values, view.value_pages, wide[1]),
    ):
        codes = np.zeros((2, 9, 4, 8), np.uint8)
        for row, page, slot in PLACES:
            codes[:, page, slot] = reference_quantized.quantize(
                given_rows[row], scale[:, None], dtype
            )
        np.testing.assert_array_equal(bits(pages), codes)
        meant = reference_quantized.CODES[dtype][codes[:, 1, 3]]
        found = view.read_from_cache([1], 4)[0 if given_rows is keys else 1]
        np.testing.assert_array_equal(
            floats(found, "float32")[3], meant * scale[:, None]
        )


@each_dtype
@settings(max_examples=50)
@given(
    numbers=arrays(
        np.float32,
        (3, 8),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    )
)
def test_codes_and_scales_are_the_references(dtype: str, numbers: Any) -> None:
    codes = NumpyCodes()
    with np.errstate(over="ignore"):
        scale = reference_quantized.scale_of(numbers, dtype)
        found = codes.quantise(numbers, scale, dtype)
        wanted = reference_quantized.quantize(numbers, scale[:, None], dtype)
    np.testing.assert_array_equal(codes.scales_of(numbers, dtype), scale)
    np.testing.assert_array_equal(found.view(np.uint8), wanted)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_every_number_between_codes_rounds_as_in_ml_dtypes(dtype: str) -> None:
    every = reference_quantized.CODES[dtype]
    known = np.sort(every[np.isfinite(every)]).astype(np.float64)
    halves = (known[1:] + known[:-1]) / 2
    near = [np.nextafter(halves, way) for way in (-np.inf, np.inf)]
    numbers = np.concatenate([known, halves, *near]).astype(np.float32)
    found = NumpyCodes().quantise(numbers[:, None], np.float32([1]), dtype)
    wanted = numbers.astype(getattr(ml_dtypes, dtype)).view(np.uint8)
    np.testing.assert_array_equal(found[:, 0], wanted)


@each_dtype
def test_every_code_means_what_the_reference_says(dtype: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    if dtype == "int8":
        codes = codes.view(np.int8)
    found = NumpyCodes().dequantise(codes[:, None], np.float32([1]), dtype)
    wanted = reference_quantized.CODES[dtype]
    np.testing.assert_array_equal(found[:, 0], wanted)
    np.testing.assert_array_equal(np.signbit(found[:, 0]), np.signbit(wanted))


@given(st.integers(0, 2**32 - 1))
def test_bfloat16_rounds_as_in_ml_dtypes(seed: int) -> None:
    raw = np.random.default_rng(seed).integers(0, 2**32, 64, np.uint32)
    numbers = raw.view(np.float32)
    ties = (raw & 0xFFFF0000 | 0x8000).view(np.float32)
    for each in (numbers, ties):
        finite = each[~np.isnan(each)]
        found = NumpyCodes().convert(finite, "float32", "bfloat16")
        wanted = finite.astype(ml_dtypes.bfloat16).view(np.uint16)
        np.testing.assert_array_equal(found, wanted)
        lost = each[np.isnan(each)]
        found = NumpyCodes().convert(lost, "float32", "bfloat16")
        assert np.isnan(found.view(ml_dtypes.bfloat16)).all()


@each_backend
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(backend: str, number: float) -> None:
    view, untouched = made(backend, "int8"), made(backend, "int8")
    wrong = rows(10, 2)
    wrong[1, 0, 3] = number
    with pytest.raises(ValueError, match="wanted finite keys and values"):
        view.concatenate_to_cache(rows(10, 1), wrong, STEP)
    assert view == untouched
    padding = rows(10, 2)
    padding[[6, 7, 9]] = number  # Rows that are not written.
    view.concatenate_to_cache(padding, padding, STEP)


def test_the_sizes_choose_the_quantizer() -> None:
    quantizer = PageQuantizer("float8_e5m2")
    metadata = sizes(quantizer=quantizer)
    view = PagedAttentionCacheView.init(ONE, metadata, 0, backend="numpy")
    assert view.quantizer == quantizer
    assert view.key_pages.dtype == np.uint8
    assert view.key_scales.shape == (2, 9, 4, 1)
    with pytest.raises(ValueError, match="must be the one of `metadata`"):
        view.replace(quantizer=None)
    with pytest.raises(ValueError, match="must be the one of `metadata`"):
        PagedAttentionCacheView.init(
            ONE, metadata, 0, PageQuantizer("int8"), backend="numpy"
        )


def test_each_layer_has_its_measured_scales() -> None:
    quantizer = PageQuantizer("int8", Quantization(granularity="head"))
    scales = np.arange(1, 9, dtype=np.float32).reshape(2, 2, 2)
    cache = PagedAttentionCache.init_cache(
        ONE, sizes(), quantizer, backend="numpy", scales=scales
    )
    for layer, view in enumerate(cache.views):
        assert view is not None
        assert view.key_scales.ravel().tolist() == scales[layer, 0].tolist()
        assert view.value_scales.ravel().tolist() == scales[layer, 1].tolist()
    for wrong in (scales[:1], 3.0):
        with pytest.raises(ValueError, match="`scales` must"):
            PagedAttentionCache.init_cache(
                ONE, sizes(), quantizer, backend="numpy", scales=wrong
            )


@pytest.mark.parametrize(
    ("granularity", "scales", "message"),
    [
        ("token", [[1.0, 1], [1, 1]], "and with no other, got"),
        ("head", None, "`scales` must be given with a quantizer"),
        ("head", [[1.0], [1]], "shape .2, 2. for granularity head, got .2, 1."),
        (
            "tensor",
            [[1.0, 1], [1, 1]],
            "must have shape .2, 1. for granularity",
        ),
        ("tensor", [[1.0], [0]], "`scales` must be positive"),
        ("tensor", [[1.0], [np.inf]], "`scales` must be positive"),
        ("tensor", [["a"], ["b"]], "`scales` must be numbers"),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    granularity: str, scales: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made(
            "numpy",
            "int8",
            Quantization(granularity=Granularity(granularity)),
            scales=scales,
        )


@pytest.mark.parametrize("dtype", ["float32", "int4", None])
def test_codes_have_8_bits(dtype: Any) -> None:
    with pytest.raises(ValueError, match="`dtype` must be one of float8_e4m3"):
        PageQuantizer(dtype)
