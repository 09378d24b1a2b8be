"""How the decode kernel's matrices lie over a warp's lanes.

See:
    The PTX manual, for `ldmatrix`, `movmatrix` and `mma`.
"""

from max.gpu import lane_id
from max.gpu.compute.mma import ld_matrix
from max.gpu.primitives import warp
from std.memory import bitcast
from std.sys._assembly import inlined_assembly

from .codes_gpu import even_odd, halves
from .decode_shape import DecodeShape
from .decode_stage import place_of
from .overlap import load_after_wait
from .shared_memory import Shared


@always_inline
def query_factor[
    shape: DecodeShape
](query: Pointer[Scalar[shape.dtype], ImmUntrackedOrigin], lane: Int) -> SIMD[
    shape.half(), 4
]:
    """Returns a lane's part of sixteen elements of a query.

    Codes lie four in a register: with them a lane has four neighbours, in
    place of two and the two that are eight further.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        query: The first of the sixteen elements.
        lane: The lane's place among the four that hold the same column.

    Returns:
        The elements: a right factor.
    """
    comptime if shape.is_quantized():
        return load_after_wait[4](query.unsafe_offset(4 * lane)).cast[
            shape.half()
        ]()
    return (
        load_after_wait[2](query.unsafe_offset(2 * lane))
        .join(load_after_wait[2](query.unsafe_offset(2 * lane + 8)))
        .cast[shape.half()]()
    )


@always_inline
def key_factors[
    shape: DecodeShape
](plane: Shared[UInt8], step: Int) -> SIMD[shape.half(), 16]:
    """Loads thirty-two elements of a chunk's keys.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        plane: The chunk's keys.
        step: The first elements, in sixteens; an even number.

    Returns:
        Two left factors.
    """
    var lane = Int(lane_id())
    var row = lane % 16
    comptime if shape.is_quantized():
        var codes = _matrices[False](
            plane.unsafe_offset(place_of[shape](row, step + lane // 16))
        )
        return _key_halves[shape](codes)
    var first = _matrices[False](
        plane.unsafe_offset(place_of[shape](row, 2 * step + lane // 16))
    )
    var second = _matrices[False](
        plane.unsafe_offset(place_of[shape](row, 2 * step + 2 + lane // 16))
    )
    return bitcast[shape.half(), 16](first.join(second))


@always_inline
def _key_halves[
    shape: DecodeShape
](codes: SIMD[DType.uint32, 4]) -> SIMD[shape.half(), 16]:
    var upper = halves[shape.code](codes[0])
    var lower = halves[shape.code](codes[1])
    var first = _interleaved(upper, lower)
    upper = halves[shape.code](codes[2])
    lower = halves[shape.code](codes[3])
    return rebind[SIMD[shape.half(), 16]](
        first.join(_interleaved(upper, lower))
    )


@always_inline
def value_factors[
    shape: DecodeShape
](plane: Shared[UInt8], step: Int) -> SIMD[shape.half(), 16]:
    """Loads thirty-two elements of a chunk's values, transposed.

    A register of codes has two elements of each of two values: one tile's rows
    are the even elements, then the odd ones.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        plane: The chunk's values.
        step: The first elements, in sixteens; an even number.

    Returns:
        Two left factors.
    """
    var lane = Int(lane_id())
    comptime if shape.is_quantized():
        var codes = _matrices[True](
            plane.unsafe_offset(place_of[shape](lane % 16, step + lane // 16))
        )
        comptime for i in range(4):
            codes[i] = even_odd(codes[i])
        var first = halves[shape.code](codes[0]).join(
            halves[shape.code](codes[1])
        )
        var second = halves[shape.code](codes[2]).join(
            halves[shape.code](codes[3])
        )
        return rebind[SIMD[shape.half(), 16]](first.join(second))
    var row = lane % 8 + lane // 16 * 8
    var first = _matrices[True](
        plane.unsafe_offset(place_of[shape](row, 2 * step + lane // 8 % 2))
    )
    var second = _matrices[True](
        plane.unsafe_offset(place_of[shape](row, 2 * step + 2 + lane // 8 % 2))
    )
    return bitcast[shape.half(), 16](first.join(second))


@always_inline
def _interleaved(
    upper: SIMD[DType.float16, 4], lower: SIMD[DType.float16, 4]
) -> SIMD[DType.float16, 8]:
    """Puts pairs of two rows as a left factor has them."""
    return (
        upper.slice[2]()
        .join(lower.slice[2]())
        .join(upper.slice[2, offset=2]().join(lower.slice[2, offset=2]()))
    )


@always_inline
def _matrices[transpose: Bool](row: Shared[UInt8]) -> SIMD[DType.uint32, 4]:
    """Loads four matrices of eight rows of 16 bytes; each lane names a row."""
    return bitcast[DType.uint32, 4](
        ld_matrix[simd_width=8, transpose=transpose](
            row.unsafe_bitcast[BFloat16]()
        )
    )


@always_inline
def right_factor[dtype: DType, //](tile: SIMD[dtype, 4]) -> SIMD[dtype, 4]:
    """Lets a product of one multiplication be a factor of the next.

    Parameters:
        dtype: What the tensor cores multiply.

    Args:
        tile: A lane's part of sixteen rows and eight columns.

    Returns:
        A lane's part of the same as a right factor.
    """
    return _transposed(tile.slice[2]()).join(
        _transposed(tile.slice[2, offset=2]())
    )


@always_inline
def _transposed[dtype: DType, //](pair: SIMD[dtype, 2]) -> SIMD[dtype, 2]:
    """Transposes an 8 by 8 matrix that lies over a warp, a pair a lane."""
    return bitcast[dtype, 2](
        inlined_assembly[
            "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;",
            UInt32,
            constraints="=r,r",
        ](bitcast[DType.uint32, 1](pair))
    )


@always_inline
def max_of_rows(own: Float32) -> Float32:
    """Returns the largest of the lanes that have the same columns.

    Args:
        own: The lane's number.

    Returns:
        The largest of eight lanes'.
    """
    var top = max(own, warp.shuffle_xor(own, 4))
    top = max(top, warp.shuffle_xor(top, 8))
    return max(top, warp.shuffle_xor(top, 16))
