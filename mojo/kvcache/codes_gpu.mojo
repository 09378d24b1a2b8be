"""Turns 8-bit codes into float16 for a GPU's tensor cores.

Every code is a float16 number, so nothing is rounded.
"""

from std.memory import bitcast
from std.sys._assembly import inlined_assembly


@always_inline
def permuted(low: UInt32, high: UInt32, selector: UInt32) -> UInt32:
    """Picks four of eight bytes.

    Args:
        low: Bytes 0 to 3.
        high: Bytes 4 to 7.
        selector: Which byte goes where, four bits each, the lowest first.

    Returns:
        The bytes.
    """
    return inlined_assembly[
        "prmt.b32 $0, $1, $2, $3;", UInt32, constraints="=r,r,r,r"
    ](low, high, selector)


@always_inline
def even_odd(codes: UInt32) -> UInt32:
    """Puts bytes 0 and 2 before bytes 1 and 3.

    Args:
        codes: Four bytes.

    Returns:
        The bytes in their new order.
    """
    return permuted(codes, codes, 0x3120)


@always_inline
def halves[code: DType](codes: UInt32) -> SIMD[DType.float16, 4]:
    """Turns four codes into numbers.

    Parameters:
        code: The type of the codes: float8_e4m3fn, float8_e5m2 or int8.

    Args:
        codes: The codes, the first in the lowest byte.

    Returns:
        The numbers.
    """
    comptime if code == DType.float8_e4m3fn:
        return _from_e4m3(UInt16(codes & 0xFFFF)).join(
            _from_e4m3(UInt16(codes >> 16))
        )
    elif code == DType.float8_e5m2:
        # The upper byte of a float16 is a float8_e5m2.
        return _pairs(permuted(codes, 0, 0x1404), permuted(codes, 0, 0x3424))
    else:
        comptime assert code == DType.int8, "not a type of quantised pools"
        # With 0x64 above it, a byte u is the float16 number 1024 + u.
        var shifted = codes ^ 0x80808080
        return (
            _pairs(
                permuted(shifted, 0x64646464, 0x4140),
                permuted(shifted, 0x64646464, 0x4342),
            )
            - 1152
        )


@always_inline
def _from_e4m3(codes: UInt16) -> SIMD[DType.float16, 2]:
    return bitcast[DType.float16, 2](
        inlined_assembly[
            "cvt.rn.f16x2.e4m3x2 $0, $1;", UInt32, constraints="=r,h"
        ](codes)
    )


@always_inline
def _pairs(low: UInt32, high: UInt32) -> SIMD[DType.float16, 4]:
    return bitcast[DType.float16, 4](SIMD[DType.uint32, 2](low, high))
