"""Sizes of vectors and of GPU blocks."""

from std.sys import simd_width_of, size_of

comptime THREADS = 256
"""The threads of a GPU block of a kernel that moves data."""

comptime GPU_VECTOR_BYTES = 16
"""The widest load of one GPU thread."""


def widest_divisor(length: Int, limit: Int) -> Int:
    """Returns the widest vector that tiles a row.

    Args:
        length: The elements in the row.
        limit: The widest vector that the hardware has, a power of two.

    Returns:
        The largest power of two up to `limit` that divides `length`.
    """
    var width = limit
    while length % width != 0:
        width //= 2
    return width


def cpu_width[dtype: DType](length: Int) -> Int:
    """Returns the width in which the CPU walks a row.

    Parameters:
        dtype: The type that is computed in.

    Args:
        length: The elements in the row.

    Returns:
        The elements per vector.
    """
    return widest_divisor(length, simd_width_of[dtype]())


def gpu_width[dtype: DType](length: Int) -> Int:
    """Returns the width in which a GPU thread walks a row.

    Parameters:
        dtype: The type in memory.

    Args:
        length: The elements in the row.

    Returns:
        The elements per vector.
    """
    return widest_divisor(length, GPU_VECTOR_BYTES // size_of[dtype]())
