"""Rounding between element types in NumPy, which lacks half of them."""

from functools import cache

import numpy as np
import numpy.typing as npt

from kvcache.paged_attention.backend import Rows

LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0, "int8": 127.0}
"""The largest code; int8 does without -128."""

_FRACTION_BITS = {"float8_e4m3fn": 3, "float8_e5m2": 2}
_LOWEST_EXPONENT = {"float8_e4m3fn": -6, "float8_e5m2": -14}
"""Of the smallest normal number; the numbers below have its quantum."""


class NumpyCodes:
    """Arithmetic on NumPy arrays; bfloat16 is uint16, an 8-bit float uint8."""

    def empty(self, shape: tuple[int, ...], like: Rows) -> Rows:
        """Returns an array to be filled, of the type of another."""
        return np.empty(shape, like.dtype)

    def convert(self, rows: Rows, source: str, target: str) -> Rows:
        """Returns rows in another type, rounded to nearest, ties to even."""
        if source == target:
            return rows
        if source == "bfloat16":
            rows = (rows.astype(np.uint32) << 16).view(np.float32)
        rows = rows.astype(np.float32)
        if target == "bfloat16":
            return _to_bfloat16(rows)
        with np.errstate(over="ignore"):
            return rows.astype(target)

    def all_finite(self, rows: Rows) -> bool:
        """Returns whether rows are free of infinities and NaN."""
        return bool(np.isfinite(rows).all())

    def scales_of(self, groups: Rows, dtype: str) -> Rows:
        """Returns the scales that make the largest number the largest code."""
        largest = np.abs(groups).max(axis=-1)
        scales = largest / np.float32(LARGEST[dtype])
        scales = np.maximum(scales, np.finfo(np.float32).tiny)
        return np.where(largest == 0, np.float32(1), scales)

    def quantise(self, groups: Rows, scales: Rows, dtype: str) -> Rows:
        """Returns the codes nearest to numbers over their scale."""
        numbers = groups * (np.float32(1) / scales)[..., None]
        numbers = numbers.clip(-LARGEST[dtype], LARGEST[dtype])
        if dtype == "int8":
            return np.rint(numbers).astype(np.int8)
        return _to_float8(numbers, dtype)

    def dequantise(self, groups: Rows, scales: Rows, dtype: str) -> Rows:
        """Returns the numbers that codes mean, float32."""
        if dtype == "int8":
            return groups.astype(np.float32) * scales[..., None]
        return _meanings(dtype)[groups] * scales[..., None]


def _to_bfloat16(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))
    quiet = bits | np.uint32(0x400000)  # A NaN must not round to infinity.
    bits = np.where(np.isnan(numbers), quiet, rounded)
    return (bits >> 16).astype(np.uint16)


def _to_float8(
    numbers: npt.NDArray[np.float32], dtype: str
) -> npt.NDArray[np.uint8]:
    """Returns the codes of numbers that are no larger than the largest.

    Codes go up with the numbers: in units of the last place, a number of the
    exponent `e` is `e - lowest` times `2**fraction_bits` below its code.
    """
    fraction_bits, lowest = _FRACTION_BITS[dtype], _LOWEST_EXPONENT[dtype]
    size = np.abs(numbers)
    exponent = np.where(size > 0, np.frexp(size)[1] - 1, lowest)
    exponent = np.maximum(exponent, lowest)
    units = np.rint(np.ldexp(size, fraction_bits - exponent)).astype(np.int32)
    codes = units + ((exponent - lowest) << fraction_bits)
    return np.asarray(codes | np.signbit(numbers) * 128, np.uint8)


@cache
def _meanings(dtype: str) -> npt.NDArray[np.float32]:
    """Returns what each code means, float32 `[256]`."""
    fraction_bits, lowest = _FRACTION_BITS[dtype], _LOWEST_EXPONENT[dtype]
    codes = np.arange(256)
    exponent = (codes & 127) >> fraction_bits
    fraction = codes & (1 << fraction_bits) - 1
    units = np.where(exponent > 0, fraction + (1 << fraction_bits), fraction)
    place = np.maximum(exponent, 1) - 1 + lowest - fraction_bits
    size = np.ldexp(units.astype(np.float32), place)
    if dtype == "float8_e4m3fn":
        size[codes & 127 == 127] = np.nan
    else:
        top = exponent == 31
        size[top] = np.where(fraction[top] > 0, np.nan, np.inf)
    return np.asarray(np.where(codes & 128, -size, size), np.float32)
