from std.sys import simd_width_of
from std.testing import TestSuite, assert_equal, assert_true

from kvcache.vectors import cpu_width, gpu_width, widest_divisor


def test_widest_divisor_by_hand() raises:
    assert_equal(widest_divisor(8, 8), 8)
    assert_equal(widest_divisor(40, 16), 8)
    assert_equal(widest_divisor(12, 8), 4)
    assert_equal(widest_divisor(10, 8), 2)
    assert_equal(widest_divisor(5, 8), 1)
    assert_equal(widest_divisor(256, 4), 4)


def test_widest_divisor_is_a_divisor_and_none_is_wider() raises:
    for length in range(1, 300):
        var limit = 1
        while limit <= 64:
            var width = widest_divisor(length, limit)
            assert_equal(length % width, 0)
            assert_true(width <= limit)
            assert_true(width == limit or length % (2 * width) != 0)
            limit *= 2


def test_cpu_width_is_at_most_the_hardware_s() raises:
    comptime widest = simd_width_of[DType.float32]()
    assert_equal(cpu_width[DType.float32](256), widest)
    assert_equal(cpu_width[DType.float32](4), min(4, widest))
    assert_equal(cpu_width[DType.float32](3), 1)


def test_gpu_width_is_16_bytes() raises:
    assert_equal(gpu_width[DType.float32](64), 4)
    assert_equal(gpu_width[DType.bfloat16](64), 8)
    assert_equal(gpu_width[DType.bfloat16](4), 4)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
