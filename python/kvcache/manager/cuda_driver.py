"""The call of the CUDA driver that copies many places at once."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kvcache.errors import DriverError

_LIBRARY = "libcuda.so.1"
_COPY = "cuMemcpyBatchAsync"
_IN_STREAM_ORDER = 1  # CU_MEMCPY_SRC_ACCESS_ORDER_STREAM


class _Location(ctypes.Structure):
    """CUmemLocation; all zeros where the driver is to look itself."""

    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Attributes(ctypes.Structure):
    """CUmemcpyAttributes."""

    _fields_ = (
        ("source_order", ctypes.c_int),
        ("source", _Location),
        ("target", _Location),
        ("flags", ctypes.c_uint),
    )


class CudaDriver:
    """Calls of the driver's library, each with its result looked at.

    Args:
        library: The library, or what has its functions.

    References:
        CUDA Driver API 12.8, Memory Management: `cuMemcpyBatchAsync`. In later
        drivers too the symbol without a version is this form of it.
    """

    def __init__(self, library: Any) -> None:
        """Takes a library that is loaded."""
        self._library = library

    @classmethod
    def find(cls) -> Self | None:
        """Loads the library.

        Returns:
            None without a CUDA driver, or where it is older than 12.8.
        """
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError:
            return None
        return cls(library) if hasattr(library, _COPY) else None

    def copy(self, copies: npt.NDArray[np.uint64], stream: int) -> None:
        """Issues copies on a stream, in no order among themselves.

        Args:
            copies: Addresses of the targets, of the sources, and how many
                bytes go there, `[3, num_copies]`; one at least.
            stream: The stream's handle.

        Raises:
            DriverError: If a call fails. Some of the copies may be issued.
        """
        rows = np.ascontiguousarray(copies, np.uint64)
        targets, sources, sizes = (
            ctypes.c_void_p(row.ctypes.data) for row in rows
        )
        attributes = _Attributes(source_order=_IN_STREAM_ORDER)
        first_with_them = ctypes.c_size_t(0)
        failed = ctypes.c_size_t(0)
        with self._context_of(stream):
            self._call(
                _COPY,
                targets,
                sources,
                sizes,
                ctypes.c_size_t(rows.shape[1]),
                ctypes.byref(attributes),
                ctypes.byref(first_with_them),
                ctypes.c_size_t(1),
                ctypes.byref(failed),
                ctypes.c_void_p(stream),
            )

    @contextmanager
    def _context_of(self, stream: int) -> Iterator[None]:
        """Makes a stream's context the calling thread's, for a while."""
        context, popped = ctypes.c_void_p(), ctypes.c_void_p()
        self._call(
            "cuStreamGetCtx", ctypes.c_void_p(stream), ctypes.byref(context)
        )
        self._call("cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(popped))

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise DriverError(f"wanted 0 from {name}, got {code}")
