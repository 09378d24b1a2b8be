"""NumPy arrays to device buffers and back.

An array of 16-bit floats is a float32 array here, of numbers that the type has:
NumPy has no bfloat16 of its own, and a GPU machine may lack a package for it.
Codes of 8 bits are uint8, whatever they mean.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from max.driver import CPU, Buffer, Device
from max.dtype import DType

Array = npt.NDArray[Any]


def rounded(array: Array, dtype: str) -> Array:
    """Rounds float32 numbers to the nearest that `dtype` has, ties to even."""
    if dtype == "float32":
        return array
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float32)
    bits = array.view(np.uint32)
    bits = bits + (0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def to_buffer(array: Array, device: Device, dtype: str | None = None) -> Buffer:
    """Copies an array to a device.

    Args:
        array: Float32 for an element type, else of any other type.
        device: Where to.
        dtype: The element type, of which the numbers must be.
    """
    if dtype == "float16":
        halves = array.astype(np.float16)
        np.testing.assert_array_equal(halves, array)
        return Buffer.from_numpy(halves).to(device)
    if dtype != "bfloat16":
        return Buffer.from_numpy(np.array(array)).to(device)
    bits = np.ascontiguousarray(array).view(np.uint32)
    assert not (bits & 0xFFFF).any(), "numbers that bfloat16 does not have"
    buffer = Buffer.from_numpy((bits >> 16).astype(np.uint16))
    return buffer.view(DType.bfloat16).to(device)


def to_array(buffer: Buffer) -> Array:
    """Copies a buffer back."""
    host = buffer.to(CPU())
    if buffer.dtype == DType.float16:
        return host.to_numpy().astype(np.float32)
    if buffer.dtype != DType.bfloat16:
        return host.to_numpy()
    bits = host.view(DType.uint16).to_numpy().astype(np.uint32) << 16
    return bits.view(np.float32)


def to_codes(buffer: Buffer) -> Array:
    """Copies elements of 8 bits back as they are."""
    return buffer.to(CPU()).view(DType.uint8).to_numpy()


def codes_to_buffer(codes: Array, device: Device, dtype: str) -> Buffer:
    """Copies elements of 8 bits, uint8 whatever they mean, to a device."""
    return Buffer.from_numpy(np.array(codes)).view(DType[dtype]).to(device)
