"""Tiles of float32 in and out of arrays of any element type."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvcache.compiler.element_types import ELEMENT_BYTES, FLOATS
from kvcache.errors import MissingPackageError

Array = NDArray[Any]
Tiles = NDArray[np.float32]
Rows = NDArray[np.int64]

LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
"""The largest finite number of each float of eight bits."""


def read(field: Array, rows: Rows, dtype: str) -> Tiles:
    """Returns tiles as float32.

    Args:
        field: The array, `[rows, r, c]`; of `dtype`, or its bits as unsigned
            integers.
        rows: The rows that are wanted.
        dtype: The element type; see `element_types`.
    """
    return _typed(field, dtype)[rows].astype(np.float32)


def write(field: Array, rows: Rows, tiles: Tiles, dtype: str) -> None:
    """Writes tiles, rounded; floats of eight bits hold the largest at most.

    Args:
        field: The array, as `read` takes it.
        rows: Where the tiles go.
        tiles: One for each row, or one for all, `[len(rows) or 1, r, c]`.
        dtype: The element type.
    """
    target = _typed(field, dtype)
    if dtype in LARGEST:
        tiles = tiles.clip(-LARGEST[dtype], LARGEST[dtype])
    if dtype == "int8":
        tiles = np.rint(tiles).clip(-128, 127)
    target[rows] = tiles.astype(target.dtype)


def _typed(field: Array, dtype: str) -> Array:
    """Returns the array as one of its element type."""
    if field.dtype.name == dtype:
        return field
    is_bits = field.dtype.kind == "u" and dtype in {*LARGEST, *FLOATS}
    if is_bits and field.itemsize == ELEMENT_BYTES[dtype]:
        return field.view(_numpy_type(dtype))
    raise AssertionError(f"wanted an array of {dtype}, got {field.dtype.name}")


def _numpy_type(dtype: str) -> Any:
    if dtype in {"float16", "float32"}:
        return np.dtype(dtype)
    try:
        import ml_dtypes
    except ImportError:
        raise MissingPackageError(
            f"wanted the package ml_dtypes to read bits as {dtype}"
        ) from None
    return getattr(ml_dtypes, dtype)


def scratch(
    old: Tiles | None, rows: int, tile: tuple[int, int], like: Array
) -> Tiles:
    """Returns an array between kernels: the old one, if it is large enough.

    Args:
        old: The array of an earlier step, or None.
        rows: Rows that are wanted, at least.
        tile: Extents inside a row.
        like: Any array of the step.
    """
    del like
    if old is not None and len(old) >= rows:
        return old
    return np.full((rows, *tile), np.nan, np.float32)
