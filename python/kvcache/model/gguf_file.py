"""Reads the container format GGUF: metadata, and where each tensor lies.

The package `gguf` reads it too, but makes NumPy views of each of a vocabulary's
98,000 strings, which takes three seconds; this takes a tenth of one. What the
bytes of a tensor mean stays with that package (see `dequantise`).

References:
    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from kvcache.model.error import ModelError

MAGIC: Final = b"GGUF"
"""The first four bytes of every GGUF file."""

_VERSIONS = (2, 3)
_MAX_RANK = 4
_SCALARS: Final = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING = 8
_ARRAY = 9


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor is and what its bytes are."""

    shape: tuple[int, ...]
    """Its sizes, outermost first (the file has them innermost first)."""
    type_id: int
    """Its `GGMLQuantizationType`."""
    offset: int
    """Its first byte, from the start of the file."""


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    """A GGUF file that is mapped into memory."""

    path: Path
    """Where it was read from."""
    metadata: dict[str, object]
    """Its keys and values; arrays are lists."""
    tensors: dict[str, GgufTensor]
    """Its tensors by name, in the file's order."""
    data: mmap.mmap
    """The whole file, copied on write."""


def read_gguf(path: Path) -> GgufFile:
    """Maps a GGUF file and reads its metadata and its list of tensors.

    Args:
        path: The file.

    Returns:
        The file; no tensor has been read yet.

    Raises:
        ModelError: If it cannot be opened, is not GGUF of version 2 or 3, or is
            cut short.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise ModelError(f"{path}: wanted a GGUF file, got another")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise ModelError(f"wanted a file {path}: {error.strerror}") from error
    cursor = _Cursor(data, path)
    _check_version(cursor)
    num_tensors = cursor.scalar("<u8")
    num_values = cursor.scalar("<u8")
    metadata: dict[str, object] = {}
    for _ in range(num_values):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.scalar("<u4"))
    tensors: dict[str, GgufTensor] = {}
    for _ in range(num_tensors):
        name = cursor.text()
        if name in tensors:
            raise ModelError(f"{path}: wanted one tensor {name}, got two")
        tensors[name] = cursor.tensor()
    start = cursor.aligned(metadata.get("general.alignment", 32))
    placed = {
        name: GgufTensor(tensor.shape, tensor.type_id, start + tensor.offset)
        for name, tensor in tensors.items()
    }
    return GgufFile(path, metadata, placed, data)


def _check_version(cursor: _Cursor) -> None:
    version = cursor.scalar("<u4")
    if version not in _VERSIONS:
        kind = "big-endian" if version % 65536 == 0 else f"version {version}"
        raise ModelError(
            f"{cursor.path}: wanted little-endian GGUF of version 2 or 3, "
            f"got {kind}"
        )


class _Cursor:
    """A place in the header that moves as values are read."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.path = path
        self._data = data
        self._at = len(MAGIC)

    def _take(self, num_bytes: int) -> int:
        """Moves over some bytes and returns where they start."""
        start = self._at
        if num_bytes > len(self._data) - start:
            raise ModelError(
                f"{self.path}: wanted {num_bytes} bytes of header at byte "
                f"{start}, got {len(self._data) - start}: the file is cut "
                "short or damaged"
            )
        self._at = start + num_bytes
        return start

    def scalar(self, dtype: str) -> int:
        """Reads one unsigned whole number."""
        size = int(dtype[-1])
        start = self._take(size)
        return int.from_bytes(self._data[start : self._at], "little")

    def text(self) -> str:
        """Reads one string."""
        start = self._take(self.scalar("<u8"))
        return self._decoded(self._data[start : self._at])

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(
                f"{self.path}: wanted UTF-8 text in the header, got "
                f"{raw[:20]!r}"
            ) from error

    def texts(self, count: int) -> list[str]:
        """Reads many strings; the vocabulary makes this the hot loop."""
        data, at, end = self._data, self._at, len(self._data)
        unpack = struct.Struct("<Q").unpack_from
        strings = []
        for _ in range(count):
            if at + 8 > end:
                break
            (length,) = unpack(data, at)
            at += 8 + length
            if at > end:
                break
            strings.append(self._decoded(data[at - length : at]))
        if len(strings) < count:
            raise ModelError(
                f"{self.path}: wanted {count} strings in the header, got "
                f"{len(strings)}: the file is cut short or damaged"
            )
        self._at = at
        return strings

    def scalars(self, type_id: int, count: int) -> list[object]:
        """Reads many numbers or booleans of one type."""
        if type_id not in _SCALARS:
            raise ModelError(
                f"{self.path}: wanted a GGUF value type from 0 to 12 that is "
                f"no array in an array, got {type_id}"
            )
        dtype = np.dtype(_SCALARS[type_id])
        start = self._take(count * dtype.itemsize)
        values = np.frombuffer(self._data, dtype, count, start)
        numbers: list[object] = values.tolist()
        return numbers

    def value(self, type_id: int) -> object:
        """Reads one metadata value."""
        if type_id == _STRING:
            return self.text()
        if type_id != _ARRAY:
            return self.scalars(type_id, 1)[0]
        inner = self.scalar("<u4")
        count = self.scalar("<u8")
        if inner == _STRING:
            return self.texts(count)
        return self.scalars(inner, count)

    def tensor(self) -> GgufTensor:
        """Reads one entry of the list of tensors, after its name."""
        rank = self.scalar("<u4")
        if rank > _MAX_RANK:
            raise ModelError(
                f"{self.path}: wanted at most {_MAX_RANK} sizes for a tensor, "
                f"got {rank}"
            )
        sizes = [self.scalar("<u8") for _ in range(rank)]
        type_id = self.scalar("<u4")
        return GgufTensor(tuple(sizes[::-1]), type_id, self.scalar("<u8"))

    def aligned(self, alignment: object) -> int:
        """Returns the first byte after the header that is aligned."""
        if not isinstance(alignment, int) or alignment < 1:
            raise ModelError(
                f"{self.path}: wanted a positive general.alignment, got "
                f"{alignment!r}"
            )
        return -(-self._at // alignment) * alignment
