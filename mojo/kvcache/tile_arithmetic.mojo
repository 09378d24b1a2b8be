"""What the operators of compiled flows do to elements of tiles."""

from std.math import exp, log
from std.utils.numerics import neg_inf

comptime Numbers = SIMD[DType.float32, _]
"""Elements of a row, side by side."""


@always_inline
def relu(x: Numbers, alpha: Float32, beta: Float32) -> type_of(x):
    """Replaces what is below a threshold.

    Args:
        x: The elements.
        alpha: The threshold.
        beta: What takes the place of smaller elements.

    Returns:
        `x` where it is at least `alpha`, else `beta`.
    """
    return x.ge(alpha).select(x, type_of(x)(beta))


@always_inline
def sigmoid(x: Numbers, alpha: Float32, beta: Float32) -> type_of(x):
    """Computes a logistic function.

    Args:
        x: The elements.
        alpha: What is added inside the exponential.
        beta: The factor inside it.

    Returns:
        `1 / (1 + exp(beta * x + alpha))`.
    """
    return 1 / (1 + exp(beta * x + alpha))


@always_inline
def silu(x: Numbers, alpha: Float32, beta: Float32) -> type_of(x):
    """Multiplies elements by a logistic function of them.

    Args:
        x: The elements.
        alpha: What is added inside the exponential.
        beta: The factor inside it.

    Returns:
        `x / (1 + exp(beta * x + alpha))`.
    """
    return x / (1 + exp(beta * x + alpha))


@always_inline
def affine(x: Numbers, alpha: Float32, beta: Float32) -> type_of(x):
    """Scales and shifts.

    Args:
        x: The elements.
        alpha: What is added.
        beta: The factor.

    Returns:
        `beta * x + alpha`.
    """
    return beta * x + alpha


@always_inline
def absolute(x: Numbers, alpha: Float32, beta: Float32) -> type_of(x):
    """Computes magnitudes.

    Args:
        x: The elements.
        alpha: What is added.
        beta: The factor.

    Returns:
        `abs(beta * x + alpha)`.
    """
    return abs(beta * x + alpha)


@always_inline
def logarithm(x: Numbers, alpha: Float32, beta: Float32) -> type_of(x):
    """Computes natural logarithms.

    Args:
        x: The elements.
        alpha: What is added.
        beta: The factor.

    Returns:
        `log(beta * x + alpha)`.
    """
    return log(beta * x + alpha)


@always_inline
def exponential(x: Numbers, alpha: Float32, beta: Float32) -> type_of(x):
    """Computes powers of e.

    Args:
        x: The elements.
        alpha: What is added.
        beta: The factor.

    Returns:
        `exp(beta * x + alpha)`.
    """
    return exp(beta * x + alpha)


@always_inline
def masked[
    width: SIMDLength, //
](holds: SIMD[DType.bool, width]) -> SIMD[DType.float32, width]:
    """Makes a mask to be added.

    Parameters:
        width: How many elements.

    Args:
        holds: Where something holds.

    Returns:
        0 there, elsewhere minus infinity.
    """
    return holds.select(
        SIMD[DType.float32, width](0),
        SIMD[DType.float32, width](neg_inf[DType.float32]()),
    )


@always_inline
def slice_mask[
    width: Int
](
    first: Int, *, start: Int, end: Int, inside: Float32, outside: Float32
) -> SIMD[DType.float32, width]:
    """Tells places in a range from those outside.

    Parameters:
        width: How many places.

    Args:
        first: The first place.
        start: The first place of the range.
        end: The place behind its last.
        inside: The value in the range.
        outside: The value elsewhere.

    Returns:
        A value for each place from `first` on.
    """
    var result = SIMD[DType.float32, width](outside)
    comptime for i in range(width):
        if start <= first + i and first + i < end:
            result[i] = inside
    return result
