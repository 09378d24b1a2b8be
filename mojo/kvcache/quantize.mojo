"""How numbers become codes of 8 bits, and codes numbers.

A code of scale `s` means `code * s`. All is float32: a number's code is that
nearest to `number * (1 / s)`, ties to even, and a number beyond the largest
code gets the largest. `kvcache.reference` says the same in NumPy, to the bit.
"""

from std.math import round

comptime SMALLEST_SCALE = Float32(1.1754943508222875e-38)
"""The smallest normal float32: its reciprocal is finite, and so is every
smaller number's quotient with it."""


def largest_code[dtype: DType]() -> Float32:
    """Returns the largest finite number of an 8-bit type.

    Parameters:
        dtype: The type: float8_e4m3fn, float8_e5m2 or int8.

    Returns:
        The number; int8 is used symmetrically, without -128.
    """
    comptime if dtype == DType.float8_e4m3fn:
        return 448
    elif dtype == DType.float8_e5m2:
        return 57344
    else:
        comptime assert dtype == DType.int8, "not a type of quantised pools"
        return 127


@always_inline
def scale_of[dtype: DType](largest: Float32) -> Float32:
    """Returns the scale of numbers of which the largest is known.

    Parameters:
        dtype: The type of the codes.

    Args:
        largest: The largest magnitude, finite.

    Returns:
        The scale that gives `largest` the largest code, at least
        `SMALLEST_SCALE`; 1 where all numbers are zero.
    """
    if largest == 0:
        return 1
    return max(largest / largest_code[dtype](), SMALLEST_SCALE)


@always_inline
def quantize[
    dtype: DType, width: SIMDLength, //, code: DType
](numbers: SIMD[dtype, width], inverse: Float32) -> SIMD[code, width]:
    """Returns the codes of finite numbers, none of them NaN or infinite.

    Parameters:
        dtype: The type of the numbers.
        width: How many.
        code: The type of the codes.

    Args:
        numbers: What is to be kept.
        inverse: 1 over their scale.

    Returns:
        The nearest codes, ties to even.
    """
    comptime largest = largest_code[code]()
    var exact = (numbers.cast[DType.float32]() * inverse).clamp(
        -largest, largest
    )
    comptime if code == DType.int8:
        return round(exact).cast[code]()
    else:
        return exact.cast[code]()


@always_inline
def dequantize[
    code: DType, width: SIMDLength, //
](codes: SIMD[code, width], scale: Float32) -> SIMD[DType.float32, width]:
    """Returns what codes mean.

    Parameters:
        code: The type of the codes.
        width: How many.

    Args:
        codes: What was kept.
        scale: Their scale.

    Returns:
        Their products with the scale.
    """
    return codes.cast[DType.float32]() * scale
