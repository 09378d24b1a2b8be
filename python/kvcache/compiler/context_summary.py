"""How much memory the arrays of a context hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class ContextSummary:
    """What a context holds and has counted; `str` gives it as a text."""

    name: str
    """The context's name."""
    device_bytes: int
    """Bytes of the fields' arrays on accelerators, shared ones once."""
    host_bytes: int
    """Bytes of the fields' arrays in host memory, shared ones once."""
    aux_bytes: int
    """Bytes that `add_aux_memory` counted."""
    aux_flops: int
    """Operations that `add_aux_flops` counted."""

    def __str__(self) -> str:
        """Returns a table of the counts."""
        rows = {
            "device arrays": _with_unit(self.device_bytes),
            "host arrays": _with_unit(self.host_bytes),
            "auxiliary memory": _with_unit(self.aux_bytes),
            "auxiliary flops": f"{self.aux_flops:,}",
        }
        lines = [f"{label:<16} {value:>12}" for label, value in rows.items()]
        return "\n".join([f"Context {self.name}", *lines])


@dataclass(frozen=True, slots=True)
class _Storage:
    """One piece of memory; equal ones are the same piece."""

    device: str
    address: int
    num_bytes: int


def summary_of(
    name: str, fields: Mapping[str, Any], *, aux_bytes: int, aux_flops: int
) -> ContextSummary:
    """Returns the summary of a context's fields.

    A field may be an array of NumPy, torch or MAX, or a list, tuple or dict of
    such. Views count with all the memory that they keep alive, once.

    Args:
        name: The context's name.
        fields: The fields, by name.
        aux_bytes: Bytes that were counted beside them.
        aux_flops: Operations that were counted.
    """
    found = {each for value in fields.values() for each in _storages(value)}
    host = sum(each.num_bytes for each in found if each.device == "host")
    everything = sum(each.num_bytes for each in found)
    return ContextSummary(name, everything - host, host, aux_bytes, aux_flops)


def _storages(value: Any) -> list[_Storage]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [each for item in value for each in _storages(item)]
    storage = _storage(value)
    return [] if storage is None else [storage]


def _storage(value: Any) -> _Storage | None:
    if isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        return _Storage("host", value.ctypes.data, value.nbytes)
    if hasattr(value, "untyped_storage"):  # torch
        memory = value.untyped_storage()
        device = "host" if value.device.type == "cpu" else str(value.device)
        return _Storage(device, memory.data_ptr(), memory.nbytes())
    if hasattr(value, "num_elements") and hasattr(value, "is_contiguous"):
        device = "host" if value.device.is_host else str(value.device)
        num_bytes = value.num_elements * value.dtype.size_in_bytes
        return _Storage(device, value._data_ptr(), num_bytes)  # noqa: SLF001  (no public one)
    return None


def _with_unit(num_bytes: int) -> str:
    if num_bytes < 1024:
        return f"{num_bytes} B"
    size, units = num_bytes / 1024, iter(("KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{size:.1f} {unit}"
