"""Reads the container format safetensors, which is mapped and never copied.

References:
    https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from kvcache.model.error import ModelError
from kvcache.model.fields import Fields

_DTYPES: Final = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """One tensor inside a mapped file."""

    shape: tuple[int, ...]
    """Its sizes, outermost first."""
    dtype: str
    """`F32`, `F16` or `BF16`."""
    data: mmap.mmap
    """The whole file, copied on write."""
    offset: int
    """Its first byte in the file."""

    def read(self) -> npt.NDArray[np.float32]:
        """Returns the tensor in float32; a stored float32 is not copied."""
        count = math.prod(self.shape)
        raw = np.frombuffer(
            self.data, _DTYPES[self.dtype], count, self.offset
        ).reshape(self.shape)
        if self.dtype == "BF16":
            wide = raw.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        floats: npt.NDArray[np.float32] = np.require(
            raw, np.float32, ["C", "A", "W"]
        )
        return floats


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Maps a safetensors file and reads its list of tensors.

    Args:
        path: The file.

    Returns:
        Its tensors by name; no tensor has been read yet.

    Raises:
        ModelError: If it cannot be opened, is damaged or cut short, or a tensor
            is of a type other than float32, float16 and bfloat16.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise ModelError(f"wanted a file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(
            f"{path}: wanted a safetensors file, got an empty one"
        ) from error
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise ModelError(
            f"{path}: wanted a header of {length} bytes, got a file of "
            f"{len(data)}: it is no safetensors file or cut short"
        )
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: wanted a JSON header of {length} bytes, got something "
            "else: it is no safetensors file"
        ) from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: wanted a JSON object as header, got none")
    header.pop("__metadata__", None)
    entries = Fields(header, str(path))
    return {name: _stored(entries, name, data, 8 + length) for name in header}


def _stored(
    entries: Fields, name: str, data: mmap.mmap, start: int
) -> StoredTensor:
    entry = entries.object(name)
    if entry is None:
        raise ModelError(f"{entries.source}: wanted an object for {name}")
    shape = tuple(entry.integers("shape"))
    begin, *rest = entry.integers("data_offsets") or [0]
    dtype = entry.text("dtype")
    if dtype not in _DTYPES:
        raise ModelError(
            f"{entries.source}: wanted float32, float16 or bfloat16 for "
            f"tensor {name}, got {dtype}"
        )
    num_bytes = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    room = len(data) - start
    is_sound = min(begin, 0, *shape) == 0 and rest == [begin + num_bytes]
    if not is_sound or rest[0] > room:
        raise ModelError(
            f"{entries.source}: wanted {num_bytes} bytes for tensor {name} "
            f"of shape {list(shape)}, got bytes {[begin, *rest]} of {room}: "
            "the file is cut short or damaged"
        )
    return StoredTensor(shape, dtype, data, start + begin)
