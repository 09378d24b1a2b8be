"""Whose arrays a cache is made of."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.errors import InvalidParamsError

Array: TypeAlias = Any
"""A NumPy array, a torch tensor or a MAX buffer."""

Rows: TypeAlias = Any
"""What a backend computes with: a NumPy array or a torch tensor."""

Indices: TypeAlias = npt.NDArray[np.int64]

BACKENDS = ("max", "torch", "numpy")
"""The names of the backends."""


@dataclass(frozen=True, slots=True)
class ArrayType:
    """What an array is."""

    dtype: str
    """Name of the element type."""
    shape: tuple[int, ...]
    """Elements along each axis."""
    device: str
    """Name of the device."""


class Codes(Protocol):
    """Arithmetic between element types, on one kind of rows."""

    def empty(self, shape: tuple[int, ...], like: Rows) -> Rows:
        """Returns rows to be filled, of the type and on the device of others.

        Args:
            shape: Elements along each axis.
            like: The others.
        """

    def convert(self, rows: Rows, source: str, target: str) -> Rows:
        """Returns rows in another type, rounded to nearest, ties to even.

        Args:
            rows: Rows of type `source`; returned as they are if the types are
                the same.
            source: One of `ROW_DTYPES`.
            target: Another.
        """

    def all_finite(self, rows: Rows) -> bool:
        """Returns whether float32 rows are free of infinities and NaN.

        Args:
            rows: The rows.
        """

    def scales_of(self, groups: Rows, dtype: str) -> Rows:
        """Returns the scales that make the largest number the largest code.

        Args:
            groups: float32 `[..., group_size]`.
            dtype: One of `QUANTIZED_DTYPES`.

        Returns:
            float32 `[...]`.
        """

    def quantise(self, groups: Rows, scales: Rows, dtype: str) -> Rows:
        """Returns the codes nearest to numbers over their scale.

        Args:
            groups: float32 `[..., group_size]`, finite.
            scales: float32 `[...]`.
            dtype: One of `QUANTIZED_DTYPES`.
        """

    def dequantise(self, groups: Rows, scales: Rows, dtype: str) -> Rows:
        """Returns the numbers that codes mean, float32.

        Args:
            groups: Codes `[..., group_size]`.
            scales: float32 `[...]`.
            dtype: One of `QUANTIZED_DTYPES`.
        """


class Backend(Protocol):
    """What a cache asks of its arrays."""

    @property
    def name(self) -> str:
        """One of `BACKENDS`."""

    def codes(self, device: str) -> Codes:
        """Returns the arithmetic on rows of a device.

        Args:
            device: The device's name.
        """

    def describe(self, array: Array) -> ArrayType:
        """Returns what an array is.

        Args:
            array: An array of this backend's.

        Raises:
            InvalidParamsError: If its elements have no name here.
        """

    def is_writable(self, array: Array) -> bool:
        """Returns whether elements of an array can be set.

        Args:
            array: An array of this backend's.
        """

    def zeros(self, wanted: ArrayType) -> Array:
        """Returns an array of zeros.

        Args:
            wanted: What it is to be.

        Raises:
            InvalidParamsError: If there is no such device.
        """

    def to_bytes(self, array: Array) -> bytes:
        """Returns an array's elements in row-major order, little-endian.

        Args:
            array: An array of this backend's.
        """

    def from_bytes(self, data: bytes, wanted: ArrayType) -> Array:
        """Returns an array with given elements; the inverse of `to_bytes`.

        Args:
            data: As many bytes as the array has.
            wanted: What it is to be.

        Raises:
            InvalidParamsError: If there is no such device or type.
        """

    def rows(self, array: Array, device: str) -> Rows:
        """Returns an array to compute with, on a device or on the host.

        Args:
            array: An array of this backend's, or of NumPy.
            device: The device.
        """

    def array(self, rows: Rows, dtype: str, device: str) -> Array:
        """Returns rows as an array of this backend's.

        Args:
            rows: Rows of type `dtype`.
            dtype: One of `ROW_DTYPES`; where rows have no such type they are
                float32, and stay so.
            device: The device.
        """

    def store(
        self, pages: Array, page: Indices, slot: Indices, rows: Rows
    ) -> None:
        """Writes rows into pages, in place.

        Args:
            pages: `[num_kv_heads, num_pages, page_size, ...]`.
            page: The page of each row, `[num_rows]`; no slot is there twice.
            slot: The slot in it of each row, `[num_rows]`.
            rows: `[num_kv_heads, num_rows, ...]`, of the pages' type.
        """

    def load(self, pages: Array, page: Indices, slot: Indices) -> Rows:
        """Returns a copy of rows of pages.

        Args:
            pages: `[num_kv_heads, num_pages, page_size, ...]`.
            page: The page of each row, `[num_rows]`.
            slot: The slot in it of each row, `[num_rows]`.

        Returns:
            `[num_kv_heads, num_rows, ...]`.
        """


def backend_named(name: object) -> Backend:
    """Returns a backend; its library is loaded now.

    Args:
        name: One of `BACKENDS`.

    Raises:
        InvalidParamsError: If there is none of the name.
        MissingPackageError: If its library is not installed.
    """
    if name not in BACKENDS:
        raise InvalidParamsError(
            f"`backend` must be one of {', '.join(BACKENDS)}, got {name!r}"
        )
    module = import_module(f"kvcache.paged_attention.{name}_backend")
    backend: Backend = module.BACKEND
    return backend


def backend_of(array: object) -> Backend | None:
    """Returns the backend whose array something is; None if it is no array.

    Args:
        array: Anything.
    """
    if isinstance(array, np.ndarray):
        return backend_named("numpy")
    for kind in type(array).__mro__:
        name = (kind.__module__.partition(".")[0], kind.__name__)
        if name == ("torch", "Tensor"):
            return backend_named("torch")
        if name == ("max", "Buffer"):
            return backend_named("max")
    return None
