"""Pages in NumPy arrays, on the CPU."""

import numpy as np

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.backend import Array, ArrayType, Indices, Rows
from kvcache.paged_attention.devices import is_host
from kvcache.paged_attention.element_types import DTYPE_BYTES, numpy_dtype
from kvcache.paged_attention.numpy_codes import NumpyCodes

_CODES = NumpyCodes()


class NumpyBackend:
    """NumPy arrays; bfloat16 is kept as uint16, an 8-bit float as uint8."""

    name = "numpy"

    def codes(self, device: str) -> NumpyCodes:
        """Returns NumPy's arithmetic."""
        check_host(device)
        return _CODES

    def describe(self, array: Array) -> ArrayType:
        """Returns what an array is."""
        name = array.dtype.name
        if name not in DTYPE_BYTES or not array.dtype.isnative:
            raise InvalidParamsError(
                f"wanted numbers in this machine's byte order, got an array "
                f"of {array.dtype!r}"
            )
        return ArrayType(name, array.shape, "cpu:0")

    def is_writable(self, array: Array) -> bool:
        """Returns whether elements can be set."""
        return bool(array.flags.writeable)

    def zeros(self, wanted: ArrayType) -> Array:
        """Returns an array of zeros."""
        check_host(wanted.device)
        return np.zeros(wanted.shape, numpy_dtype(wanted.dtype))

    def to_bytes(self, array: Array) -> bytes:
        """Returns an array's elements in row-major order, little-endian."""
        wanted = array.dtype.newbyteorder("<")
        return bytes(array.astype(wanted, copy=False).tobytes())

    def from_bytes(self, data: bytes, wanted: ArrayType) -> Array:
        """Returns an array with given elements."""
        check_host(wanted.device)
        if (kept := numpy_dtype(wanted.dtype)) != wanted.dtype:
            raise InvalidParamsError(
                f"wanted the bits of {wanted.dtype} as {kept}, which NumPy "
                f"keeps them as"
            )
        dtype = np.dtype(kept)
        found = np.frombuffer(data, dtype.newbyteorder("<"))
        return found.reshape(wanted.shape).astype(dtype)

    def rows(
        self,
        array: Array,
        device: str,  # noqa: ARG002  (it is the CPU)
    ) -> Rows:
        """Returns the array, its bfloat16 as uint16."""
        return raw(array)

    def array(self, rows: Rows, dtype: str, device: str) -> Array:
        """Returns rows, of bfloat16 as float32."""
        if dtype == "bfloat16":
            return self.codes(device).convert(rows, dtype, "float32")
        return rows

    def store(
        self, pages: Array, page: Indices, slot: Indices, rows: Rows
    ) -> None:
        """Writes rows into pages, in place."""
        pages[:, page, slot] = rows

    def load(self, pages: Array, page: Indices, slot: Indices) -> Rows:
        """Returns a copy of rows of pages."""
        return pages[:, page, slot]


def check_host(device: str) -> None:
    """Refuses a device other than the CPU.

    Args:
        device: The device's name.

    Raises:
        InvalidParamsError: If it is another.
    """
    if not is_host(device):
        raise InvalidParamsError(
            f"`backend` numpy wants devices that are the CPU, got {device}"
        )


def raw(array: Array) -> Rows:
    """Returns an array whose bfloat16, from `ml_dtypes`, is seen as uint16.

    Args:
        array: A NumPy array.
    """
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16)
    return array


BACKEND = NumpyBackend()
