"""Launches a kernel while the one before it ends, where the GPU can do that.

See:
    [CUDA](https://docs.nvidia.com/cuda/cuda-programming-guide/), for
    programmatic dependent launch.
"""

from max.gpu.host.launch_attribute import LaunchAttribute
from max.gpu.primitives.grid_controls import (
    PDLLevel,
    launch_dependent_grids,
    pdl_launch_attributes,
    wait_on_dependent_grids,
)
from std.sys import size_of

from .vectors import GPU_VECTOR_BYTES


def overlapping_launch() -> List[LaunchAttribute]:
    """Returns the attributes of a launch that need not wait.

    The kernel must call `await_kernels_before` before it touches what a kernel
    before it may read or write. Some thread of it must call it in any case: the
    kernel after waits for this one alone.

    Returns:
        The attributes.
    """
    return pdl_launch_attributes(PDLLevel.OVERLAP_AT_END)


@always_inline
def await_kernels_before():
    """Waits until all that was launched before is done, and what it wrote seen.

    A thread that calls it may touch anything then. The kernel after this one
    may start when all of its threads have called it, or ended; it waits in its
    turn. So what was written before a kernel that has waited can be read by
    every later one at once.
    """
    wait_on_dependent_grids()
    launch_dependent_grids()


@always_inline
def load_after_wait[
    dtype: DType, //, width: Int
](source: Pointer[Scalar[dtype], _]) -> SIMD[dtype, width]:
    """Loads what a kernel before may have written.

    A kernel that overlaps the one before it must not take what it reads for
    constant: such a load may be moved before the wait. (What may be read before
    it, such as keys of earlier steps, can be loaded so as well.)

    Parameters:
        dtype: The element type.
        width: The elements, a power of two.

    Args:
        source: The first element, aligned as a vector of up to 16 bytes is.

    Returns:
        The elements.
    """
    comptime align = min(width * size_of[dtype](), GPU_VECTOR_BYTES)
    return source.unsafe_load[width=width, alignment=align, invariant=False]()
