"""Arrays of a caller as buffers over the same memory."""

from typing import Any

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType

from kvcache.compiler.program import Program


def tiles_buffer(
    name: str,
    given: Any,
    program: Program,
    tensor: int,
    *,
    is_written: bool = True,
) -> Buffer:
    """Returns the buffer over an array's memory.

    Args:
        name: What the caller calls it.
        given: A buffer, or an array of NumPy, `[rows, r, c]`.
        program: The pipeline.
        tensor: The array's tensor in it.
        is_written: Whether it may be changed.

    Raises:
        ValueError: If it has another shape or type, or is not contiguous.
    """
    described = program.tensors[tensor]
    dtype = DType[described.dtype]
    if isinstance(given, Buffer):
        buffer = given
    else:
        array = np.asarray(given)
        is_writable = array.flags.writeable or not is_written
        if not array.flags.c_contiguous or not is_writable:
            wanted = "contiguous and writable" if is_written else "contiguous"
            raise ValueError(f"wanted {name} {wanted}")
        if array.dtype.name != described.dtype:
            raise ValueError(
                f"wanted {name} of {described.dtype}, got {array.dtype.name}"
            )
        if not array.flags.writeable:
            array = array.copy()
        bits = array.view(f"uint{8 * array.itemsize}")
        buffer = Buffer.from_numpy(bits).view(dtype)
    if buffer.dtype != dtype or tuple(buffer.shape[1:]) != described.tile:
        raise ValueError(
            f"wanted {name} {described.dtype} [rows, {described.tile[0]}, "
            f"{described.tile[1]}], got {buffer.dtype.name} "
            f"{tuple(buffer.shape)}"
        )
    return buffer


def ids_buffer(name: str, given: Any, device: Device, dtype: DType) -> Buffer:
    """Returns a buffer of indices on a device.

    Args:
        name: What the caller calls them.
        given: A buffer on the device, or an array of NumPy, which is copied.
        device: Where they are wanted.
        dtype: Their type.

    Raises:
        ValueError: If they have another shape or type.
    """
    if isinstance(given, Buffer):
        buffer = given
    else:
        array = np.ascontiguousarray(given)
        if array.dtype.name != dtype.name:
            raise ValueError(
                f"wanted {name} of {dtype.name}, got {array.dtype.name}"
            )
        buffer = Buffer.from_numpy(np.array(array)).to(device)
    if buffer.dtype != dtype or len(buffer.shape) != 1:
        raise ValueError(
            f"wanted {name} {dtype.name} of one axis, got {buffer.dtype.name} "
            f"{tuple(buffer.shape)}"
        )
    return buffer
