"""One head of one token on a GPU: eight elements a thread.

A head has the threads of a power of two that lie side by side, in a warp or, of
a latent, in several; those past its end hold zeros.
"""

from max.gpu.primitives import warp
from std.bit import log2_floor, next_power_of_two

from .quantize import quantize, scale_of
from .overlap import load_after_wait
from .quantized_pages import QuantizedPages
from .scales import SHARED_WIDTH

comptime Piece = SIMD[DType.float32, SHARED_WIDTH]
"""What one thread holds of a head."""


def lanes_of(length: Int) -> Int:
    """Returns the threads that a number of elements has.

    Args:
        length: The elements of a head or of a group, a multiple of 8.

    Returns:
        The threads, those past the end included; of a group, a warp at most.
    """
    return next_power_of_two(length // SHARED_WIDTH)


@always_inline
def load_piece[
    dtype: DType, //
](source: Pointer[Scalar[dtype], _], element: Int) -> Piece:
    """Loads what a thread holds.

    Parameters:
        dtype: The type of the numbers.

    Args:
        source: A row, aligned to 16 bytes.
        element: The first element, a multiple of 8.

    Returns:
        Eight elements.
    """
    return load_after_wait[SHARED_WIDTH](source.unsafe_offset(element)).cast[
        DType.float32
    ]()


@always_inline
def keep_piece[
    kv: Int
](
    pages: QuantizedPages,
    numbers: Piece,
    *,
    seq: Int,
    position: Int,
    head: Int,
    element: Int,
    is_there: Bool,
    is_first: Bool,
):
    """Quantises and stores a thread's piece; all threads of the warp call it.

    Parameters:
        kv: 0 for keys, 1 for values.

    Args:
        pages: The layer's keys and values.
        numbers: The piece; zeros where there is none.
        seq: The sequence.
        position: The token's position in its sequence.
        head: The key-value head.
        element: The piece's first element of the head.
        is_there: Whether there is a piece to store.
        is_first: Whether the token is its call's first in the page.
    """
    comptime group_size = pages.group_size
    comptime is_per_token = pages.scale_layout.is_per_token
    var scale = Float32(1)
    comptime if is_per_token:
        var largest = abs(numbers).reduce_max()
        comptime for step in range(log2_floor(lanes_of(group_size))):
            largest = max(largest, warp.shuffle_xor(largest, UInt32(1 << step)))
        scale = scale_of[pages.kv_dtype](largest)
    if not is_there:
        return
    var cache = pages.cache[kv]()
    comptime if is_per_token:
        if element % group_size == 0:
            cache.store_scale(seq, head, position, element, scale)
    else:
        scale = pages.given_scale[kv](head)
        if is_first and element == 0:
            pages.keep_given_scale[kv](seq, position, head)
    cache.block_paged_ptr[1](seq, position, head, element).unsafe_store[
        alignment=SHARED_WIDTH
    ](quantize[pages.kv_dtype](numbers, 1 / scale))
