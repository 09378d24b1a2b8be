"""Arrays as JSON and back, bit by bit.

An array is an object with these keys, and no others:

- "type": "array".
- "backend": "max", "torch" or "numpy", whose array it is.
- "dtype": the name of the element type, such as "float32" or "bfloat16".
- "shape": elements along each axis; `[]` for an array of no axes.
- "device": the name of the device, such as "cpu:0" or "gpu:1".
- "data": the elements in row-major order, little-endian, in base64 (RFC 4648,
  section 4, with padding).
- "crc32": CRC-32 of all that: of "dtype", a space, the numbers of "shape" with
  commas in between, a space, and the bytes of the elements.
"""

import base64
import binascii
import math
import zlib
from typing import Any

from kvcache.errors import DocumentError, KVCacheError
from kvcache.paged_attention.backend import (
    Array,
    ArrayType,
    backend_named,
    backend_of,
)
from kvcache.paged_attention.checks import shown
from kvcache.paged_attention.devices import device_name
from kvcache.paged_attention.element_types import DTYPE_BYTES

_KEYS = {"type", "backend", "dtype", "shape", "device", "data", "crc32"}
_MAX_RANK = 8


def array_to(array: Array) -> dict[str, Any]:
    """Returns an array as an object of JSON.

    Args:
        array: An array of any backend.
    """
    backend = backend_of(array)
    assert backend is not None, "wanted an array"
    found, data = backend.describe(array), backend.to_bytes(array)
    return {
        "type": "array",
        "backend": backend.name,
        "dtype": found.dtype,
        "shape": list(found.shape),
        "device": found.device,
        "data": base64.b64encode(data).decode("ascii"),
        "crc32": _checksum(found, data),
    }


def array_from(value: dict[str, Any], path: str) -> Array:
    """Returns the array that an object of JSON says.

    Args:
        value: What `array_to` returns.
        path: Where it stands in its document.

    Raises:
        DocumentError: If a key is missing, foreign or wrong, or its device or
            library is not there.
    """
    for key in sorted(map(str, _KEYS ^ set(value))):
        state = "missing" if key in _KEYS else "not one of an array's"
        raise DocumentError(f"{path}.{key}: wanted an array, it is {state}")
    wanted = _type_from(value, path)
    data = _bytes_from(value["data"], wanted, path)
    found = value["crc32"]
    if type(found) is not int or found != _checksum(wanted, data):
        raise DocumentError(
            f"{path}.crc32: wanted {_checksum(wanted, data)}, the checksum of "
            f"what came, got {shown(found)}"
        )
    try:
        return backend_named(value["backend"]).from_bytes(data, wanted)
    except (KVCacheError, ValueError, OverflowError) as error:
        raise DocumentError(f"{path}: {error}") from error


def same_array(one: Array, other: Array) -> bool:
    """Returns whether arrays agree in library, type, shape, device and bits.

    Args:
        one: An array of any backend.
        other: Another.
    """
    backend = backend_of(one)
    if backend is None or backend_of(other) is not backend:
        return False
    if backend.describe(one) != backend.describe(other):
        return False
    return backend.to_bytes(one) == backend.to_bytes(other)


def _type_from(value: dict[str, Any], path: str) -> ArrayType:
    dtype, shape, device = value["dtype"], value["shape"], value["device"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise DocumentError(
            f"{path}.dtype: wanted one of {', '.join(DTYPE_BYTES)}, got "
            f"{shown(dtype)}"
        )
    if not isinstance(shape, list) or len(shape) > _MAX_RANK:
        raise DocumentError(
            f"{path}.shape: wanted at most {_MAX_RANK} lengths, got "
            f"{shown(shape)}"
        )
    if not all(type(each) is int and 0 <= each < 2**63 for each in shape):
        raise DocumentError(f"{path}.shape: wanted lengths, got {shown(shape)}")
    try:
        is_name = isinstance(device, str) and device_name(device) == device
    except KVCacheError:
        is_name = False
    if not is_name:
        raise DocumentError(
            f"{path}.device: wanted a name such as 'cpu:0', got {shown(device)}"
        )
    return ArrayType(dtype, tuple(shape), device)


def _bytes_from(text: object, wanted: ArrayType, path: str) -> bytes:
    if not isinstance(text, str):
        raise DocumentError(f"{path}.data: wanted base64, got {shown(text)}")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(f"{path}.data: wanted base64, {error}") from error
    if base64.b64encode(data).decode("ascii") != text:
        raise DocumentError(
            f"{path}.data: wanted base64 whose last bits are zero, got others"
        )
    size = math.prod(wanted.shape) * DTYPE_BYTES[wanted.dtype]
    if len(data) != size:
        raise DocumentError(
            f"{path}.data: wanted {size} bytes for {wanted.dtype} of shape "
            f"{list(wanted.shape)}, got {len(data)}"
        )
    return data


def _checksum(found: ArrayType, data: bytes) -> int:
    shape = ",".join(map(str, found.shape))
    return zlib.crc32(data, zlib.crc32(f"{found.dtype} {shape} ".encode()))
