"""Memory for pages, zeros at first."""

import math
from collections.abc import Sequence

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType

LINE_BYTES = 64
"""The bytes of a line of a processor's caches."""


def zeroed_buffer(shape: Sequence[int], dtype: DType, device: Device) -> Buffer:
    """Allocates a buffer of zeros, on the host one that is found quickly.

    A pool's pages are used in any order. Where memory is mapped 4 KiB at a
    time, finding them takes a tenth of a copy or more; NumPy 2.2 and later ask
    for huge pages, where Linux leaves the choice to programs. Memory is taken
    when it is first written. Elements begin where a cache line does.

    Args:
        shape: The buffer's shape.
        dtype: Its elements.
        device: Where it is.
    """
    num_bytes = math.prod(shape) * dtype.size_in_bytes
    if not device.is_host or num_bytes == 0:
        return Buffer.zeros(shape, dtype, device)
    memory = np.zeros(num_bytes + LINE_BYTES, np.uint8)
    begin = -memory.ctypes.data % LINE_BYTES
    aligned = memory[begin : begin + num_bytes]
    return Buffer.from_numpy(aligned).view(dtype, shape)
