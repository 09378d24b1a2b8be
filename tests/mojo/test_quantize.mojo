from std.math import inf, isnan
from std.memory import bitcast
from std.testing import TestSuite, assert_equal
from std.testing import assert_true
from std.testing.prop import PropTest
from std.testing.prop.strategy.simd_strategy import *

from kvcache.quantize import (
    SMALLEST_SCALE,
    dequantize,
    largest_code,
    quantize,
    scale_of,
)

comptime E4M3 = DType.float8_e4m3fn
comptime E5M2 = DType.float8_e5m2


def test_largest_codes_are_finite_and_the_next_are_not() raises:
    assert_equal(bitcast[E4M3](UInt8(0x7E)).cast[DType.float32](), 448)
    assert_true(isnan(bitcast[E4M3](UInt8(0x7F)).cast[DType.float32]()))
    assert_equal(bitcast[E5M2](UInt8(0x7B)).cast[DType.float32](), 57344)
    assert_equal(
        bitcast[E5M2](UInt8(0x7C)).cast[DType.float32](), inf[DType.float32]()
    )


def test_ties_go_to_even() raises:
    comptime Four = SIMD[DType.float32, 4]
    assert_equal(
        quantize[DType.int8](Four(0.5, 1.5, 2.5, -3.5), 1),
        SIMD[DType.int8, 4](0, 2, 2, -4),
    )
    # Between 16 and 32 a step of e4m3fn is 2 and of e5m2 4.
    assert_equal(
        quantize[E4M3](Four(17, 19, 21, -17), 1).cast[DType.float32](),
        Four(16, 20, 20, -16),
    )
    assert_equal(
        quantize[E5M2](Four(18, 22, 26, -18), 1).cast[DType.float32](),
        Four(16, 24, 24, -16),
    )
    # The smallest of e4m3fn is 2**-9: half of it is as near to zero.
    assert_equal(
        quantize[E4M3](Float32(0.0009765625), 1).cast[DType.float32](), 0
    )
    assert_equal(
        quantize[E4M3](Float32(0.0029296875), 1).cast[DType.float32](),
        0.00390625,
    )


def check_saturation[code: DType]() raises:
    comptime largest = largest_code[code]()
    comptime Four = SIMD[DType.float32, 4]
    var far = Four(largest + 100, -largest - 100, 3.4e38, -3.4e38)
    assert_equal(
        quantize[code](far, 1).cast[DType.float32](),
        Four(largest, -largest, largest, -largest),
    )


def test_numbers_past_the_largest_code_get_it() raises:
    check_saturation[DType.int8]()
    check_saturation[E4M3]()
    check_saturation[E5M2]()


def check_codes_are_their_own_nearest[code: DType]() raises:
    for bits in range(256):
        var one = bitcast[code](UInt8(bits))
        var number = one.cast[DType.float32]()
        if abs(number) <= largest_code[code]():
            var again = quantize[code](number, 1).cast[DType.float32]()
            assert_equal(again, number)


def test_codes_are_their_own_nearest() raises:
    check_codes_are_their_own_nearest[DType.int8]()
    check_codes_are_their_own_nearest[E4M3]()
    check_codes_are_their_own_nearest[E5M2]()


def test_scale_gives_the_largest_number_the_largest_code() raises:
    assert_equal(scale_of[DType.int8](254), 2)
    assert_equal(scale_of[E4M3](224), 0.5)
    assert_equal(scale_of[E5M2](57344), 1)
    assert_equal(scale_of[E4M3](0), 1)
    assert_equal(scale_of[E4M3](1e-42), SMALLEST_SCALE)
    assert_true(1 / SMALLEST_SCALE < inf[DType.float32]())


def check_round_trip[code: DType, step: Float32]() raises:
    """Holds the error to half a step: `step` of a number, or of the scale."""

    def stays_near(var bits: UInt32) raises:
        var x = Float32(Int(bits % 65536) - 32768) / 7
        var y = Float32(Int(bits // 65536)) / 700
        var scale = scale_of[code](max(abs(x), y))
        for number in [x, y]:
            var kept = quantize[code](number, 1 / scale)
            var error = abs(dequantize(kept, scale) - number)
            var bound = max(abs(number) * step, scale * smallest_step[code]())
            assert_true(error <= bound * 0.50001)

    PropTest().test[stays_near](UInt32.strategy())


def smallest_step[code: DType]() -> Float32:
    """Returns how far the codes around zero are apart."""
    comptime if code == DType.int8:
        return 1
    else:
        return bitcast[code](UInt8(1)).cast[DType.float32]()


def test_round_trip_stays_within_half_a_step() raises:
    check_round_trip[DType.int8, 0]()
    check_round_trip[E4M3, 0.125]()
    check_round_trip[E5M2, 0.25]()


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
