from std.sys import size_of
from std.testing import TestSuite, assert_equal

from kvcache.run_copy import LINE_BYTES, copy_run

comptime MARGIN = 64
comptime MOST = 1024


def check[dtype: DType](count: Int, shift: Int, *, is_stream: Bool) raises:
    """Copies to `shift` elements behind a line's begin."""
    var source = List[Scalar[dtype]](capacity=MOST)
    for i in range(MOST):
        source.append(Scalar[dtype](i % 120 + 1))
    var memory = List[Scalar[dtype]](length=MOST + 3 * MARGIN, fill=0)
    var first = memory.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin]()
    var behind = Int(first) % LINE_BYTES // size_of[dtype]()
    var line = LINE_BYTES // size_of[dtype]() - behind
    var dest = first.unsafe_offset(MARGIN + line + shift)
    var src = (
        source.unsafe_ptr()
        .unsafe_offset(1)
        .unsafe_mut_cast[False]()
        .unsafe_origin_cast[ImmUntrackedOrigin]()
    )
    copy_run(dest=dest, src=src, count=count, next=src, is_stream=is_stream)
    for i in range(-MARGIN, count + MARGIN):
        var wanted = Scalar[dtype](0)
        if 0 <= i < count:
            wanted = source[i + 1]
        assert_equal(dest[unsafe_offset=i], wanted)
    _ = source^
    _ = memory^


def check_sizes[dtype: DType]() raises:
    for count in [0, 1, 8, 16, 31, 32, 33, 64, 96, 128, 192, 640, 1000]:
        for shift in [0, 1, 8, 16, 32]:
            check[dtype](count, shift, is_stream=False)
            check[dtype](count, shift, is_stream=True)


def test_copies_what_it_is_told_and_no_more() raises:
    check_sizes[DType.float32]()
    check_sizes[DType.bfloat16]()
    check_sizes[DType.int8]()


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
