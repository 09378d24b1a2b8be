"""The codes of 8 bits and the rounding to them, against `ml_dtypes`."""

import ml_dtypes
import numpy as np
import pytest

from kvcache import reference_quantized as reference

FLOATS = {
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_code_means_what_ml_dtypes_says(dtype: str) -> None:
    codes = np.arange(256, dtype=np.uint8).view(FLOATS[dtype])
    np.testing.assert_array_equal(
        reference.CODES[dtype], codes.astype(np.float32)
    )
    signs = np.signbit(reference.CODES[dtype])[[0, 128]]
    assert signs.tolist() == [False, True]


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_round_as_in_ml_dtypes(dtype: str) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(50_000, np.float32)
    numbers *= np.float32(2) ** rng.integers(-20, 18, numbers.shape)
    largest = reference.LARGEST[dtype]
    numbers = numbers[np.abs(numbers) <= largest]
    wanted = numbers.astype(FLOATS[dtype]).view(np.uint8)
    actual = reference.quantize(numbers, np.float32(1), dtype)
    np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("dtype", FLOATS)
def test_ties_round_as_in_ml_dtypes(dtype: str) -> None:
    codes = reference.CODES[dtype][:128]
    codes = codes[np.isfinite(codes)].astype(np.float64)
    ties = ((codes[1:] + codes[:-1]) / 2).astype(np.float32)
    ties = np.concatenate([ties, -ties, np.nextafter(ties, np.float32(0))])
    wanted = ties.astype(FLOATS[dtype]).view(np.uint8)
    actual = reference.quantize(ties, np.float32(1), dtype)
    np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("dtype", reference.CODES)
def test_codes_are_their_own_nearest(dtype: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    numbers = reference.CODES[dtype]
    kept = np.abs(numbers) <= reference.LARGEST[dtype]
    actual = reference.quantize(numbers[kept], np.float32(1), dtype)
    np.testing.assert_array_equal(actual, codes[kept])


@pytest.mark.parametrize("dtype", reference.CODES)
def test_numbers_past_the_largest_code_get_it(dtype: str) -> None:
    far = np.array([3e38, -3e38, reference.LARGEST[dtype] + 33], np.float32)
    codes = reference.quantize(far, np.float32(1), dtype)
    largest = reference.LARGEST[dtype]
    assert reference.CODES[dtype][codes].tolist() == [
        *(largest, -largest, largest)
    ]


def test_scale_by_hand() -> None:
    rows = np.array([[0, 0], [-254, 3], [1e-42, 0]], np.float32)
    scale = reference.scale_of(rows, "int8")
    assert scale.tolist() == [1, 2, float(np.finfo(np.float32).tiny)]


@pytest.mark.parametrize(
    ("dtype", "relative"),
    [("int8", 0), ("float8_e4m3fn", 2.0**-4), ("float8_e5m2", 2.0**-3)],
)
def test_round_trip_is_within_half_a_step(dtype: str, relative: float) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((1000, 32), np.float32)
    scale = reference.scale_of(rows, dtype)[:, None]
    back = reference.CODES[dtype][reference.quantize(rows, scale, dtype)]
    bound = np.maximum(np.abs(rows) * relative, scale / 2) * (1 + 1e-5)
    assert (np.abs(back * scale - rows) <= bound).all()
