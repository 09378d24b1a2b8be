"""Pages in MAX buffers, on the CPU or on GPUs."""

from typing import Any

import numpy as np
from max.driver import CPU, Accelerator, Buffer, Device, accelerator_count
from max.dtype import DType

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.backend import (
    Array,
    ArrayType,
    Codes,
    Indices,
    Rows,
    backend_named,
)
from kvcache.paged_attention.devices import device_name, is_host, number_of
from kvcache.paged_attention.element_types import DTYPE_BYTES, numpy_dtype
from kvcache.paged_attention.numpy_backend import BACKEND as NUMPY


class MaxBackend:
    """MAX buffers.

    Those of the CPU are written through NumPy's view of their memory, those of
    a GPU through torch's.
    """

    name = "max"

    def codes(self, device: str) -> Codes:
        """Returns NumPy's arithmetic, and torch's for a GPU."""
        other = NUMPY if is_host(device) else backend_named("torch")
        return other.codes(device)

    def describe(self, array: Array) -> ArrayType:
        """Returns what a buffer is."""
        name = array.dtype.name
        if name not in DTYPE_BYTES:
            raise InvalidParamsError(
                f"wanted a buffer of numbers, got one of {name}"
            )
        check_contiguous(array)
        device = device_name(array.device)
        return ArrayType(name, tuple(array.shape), device)

    def is_writable(
        self,
        array: Array,  # noqa: ARG002  (all are)
    ) -> bool:
        """Returns True."""
        return True

    def zeros(self, wanted: ArrayType) -> Array:
        """Returns a buffer of zeros."""
        device = max_device(wanted.device)
        return Buffer.zeros(wanted.shape, DType[wanted.dtype], device)

    def to_bytes(self, array: Array) -> bytes:
        """Returns a buffer's elements in row-major order, little-endian."""
        return NUMPY.to_bytes(_view(array.to(CPU())))

    def from_bytes(self, data: bytes, wanted: ArrayType) -> Array:
        """Returns a buffer with given elements."""
        kept = ArrayType(numpy_dtype(wanted.dtype), wanted.shape, "cpu:0")
        found = _buffer(NUMPY.from_bytes(data, kept), wanted.dtype)
        return found.to(max_device(wanted.device))

    def rows(self, array: Array, device: str) -> Rows:
        """Returns a NumPy array, and for a GPU a tensor on it."""
        if isinstance(array, Buffer):
            check_contiguous(array)
        if not is_host(device):
            if isinstance(array, Buffer):
                array = _tensor(array)
            return backend_named("torch").rows(array, device)
        if isinstance(array, Buffer):
            return _view(array.to(CPU()))
        return NUMPY.rows(array, device)

    def array(self, rows: Rows, dtype: str, device: str) -> Array:
        """Returns rows as a buffer."""
        if is_host(device):
            return _buffer(np.ascontiguousarray(rows), dtype)
        found = Buffer.from_dlpack(rows.contiguous())
        _wait(rows)
        return found

    def store(
        self, pages: Array, page: Indices, slot: Indices, rows: Rows
    ) -> None:
        """Writes rows into pages, in place."""
        if is_host(device_name(pages.device)):
            NUMPY.store(_view(pages), page, slot, rows)
            return
        tensor = _tensor(pages)
        backend_named("torch").store(tensor, page, slot, rows)
        _wait(tensor)

    def load(self, pages: Array, page: Indices, slot: Indices) -> Rows:
        """Returns a copy of rows of pages."""
        if is_host(device_name(pages.device)):
            return NUMPY.load(_view(pages), page, slot)
        return backend_named("torch").load(_tensor(pages), page, slot)


def max_device(device: str) -> Device:
    """Returns a device of MAX's.

    Args:
        device: Its name, "cpu:0" or "gpu:0".

    Raises:
        InvalidParamsError: If there is no such device.
    """
    if is_host(device):
        return CPU()
    number, count = number_of(device), accelerator_count()
    if number >= count:
        raise InvalidParamsError(
            f"`mesh` must have devices that are there, got {device} with "
            f"{count} GPUs"
        )
    return Accelerator(number)


def check_contiguous(buffer: Buffer) -> None:
    """Refuses a slice whose rows do not lie side by side.

    MAX 26.7 forgets the strides of such a buffer when it views it as another
    type, and copies it number by number, which makes other NaN of some.

    Args:
        buffer: The buffer.

    Raises:
        InvalidParamsError: If it is one.
    """
    if not buffer.is_contiguous:
        raise InvalidParamsError(
            f"wanted a contiguous buffer, got a slice of shape "
            f"{tuple(buffer.shape)}"
        )


def _view(buffer: Buffer) -> Any:
    """Returns a NumPy array over a host buffer's memory."""
    kept = DType[numpy_dtype(buffer.dtype.name)]
    if buffer.dtype != kept:
        buffer = buffer.view(kept, buffer.shape)
    return buffer.to_numpy()


def _buffer(array: Any, dtype: str) -> Buffer:
    """Returns a host buffer with a copy of an array's bits."""
    found = Buffer.zeros(array.shape, DType[dtype], CPU())
    _view(found)[...] = array
    return found


def _tensor(buffer: Buffer) -> Any:
    """Returns a torch tensor over a buffer's memory.

    MAX's work on the buffer that was issued before is awaited.
    """
    import torch

    backend_named("torch")
    buffer.device.synchronize()
    name = buffer.dtype.name
    if name.startswith("float8"):  # A type that does not cross over.
        bytes_of = buffer.view(DType.uint8, buffer.shape)
        return torch.from_dlpack(bytes_of).view(getattr(torch, name))
    return torch.from_dlpack(buffer)


def _wait(tensor: Any) -> None:
    """Waits for torch's work, which MAX's queue knows nothing of."""
    import torch

    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()


BACKEND = MaxBackend()
