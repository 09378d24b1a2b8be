from std.testing import TestSuite, assert_equal, assert_true
from std.testing.prop import PropTest, PropTestConfig
from std.testing.prop.strategy.simd_strategy import *

from kvcache.layout import PageLayout

comptime Small = PageLayout[page_size=16, num_kv_heads=3, head_dim=8]
comptime Wide = PageLayout[page_size=256, num_kv_heads=8, head_dim=256]


def test_strides_are_row_major() raises:
    assert_equal(Small.token_stride, 24)
    assert_equal(Small.plane_stride, 384)
    assert_equal(Small.page_stride(kv_dim=2, num_layers=5), 3840)
    assert_equal(Small.page_stride(kv_dim=1, num_layers=5), 1920)


def test_planes_go_by_kv_then_by_layer() raises:
    assert_equal(Small.plane_offset(kv=0, layer=0, num_layers=5), 0)
    assert_equal(Small.plane_offset(kv=0, layer=4, num_layers=5), 4 * 384)
    assert_equal(Small.plane_offset(kv=1, layer=0, num_layers=5), 5 * 384)
    assert_equal(Small.plane_offset(kv=1, layer=4, num_layers=5), 9 * 384)


def test_offsets_are_row_major() raises:
    assert_equal(Small.offset(page_offset=0, slot=0, head=0, dim=7), 7)
    assert_equal(Small.offset(page_offset=0, slot=0, head=1, dim=0), 8)
    assert_equal(Small.offset(page_offset=0, slot=1, head=0, dim=0), 24)
    assert_equal(Small.offset(page_offset=0, slot=15, head=2, dim=7), 383)
    assert_equal(Small.offset(page_offset=3840, slot=2, head=1, dim=3), 3899)


def test_offsets_pass_32_bits() raises:
    # 80 layers of 2 * 256 * 8 * 256 elements: 83,886,080 a page.
    var stride = Wide.page_stride(kv_dim=2, num_layers=80)
    assert_equal(stride, 83_886_080)
    # Page 51 is the last that starts before 2**32 = 4,294,967,296.
    assert_equal(51 * stride, 4_278_190_080)
    assert_equal(52 * stride, 4_362_076_160)
    assert_equal(
        Wide.offset(page_offset=52 * stride, slot=255, head=7, dim=255),
        4_362_076_160 + 524_287,
    )
    assert_equal(
        Wide.plane_offset(kv=1, layer=9999, num_layers=10_000),
        19_999 * 524_288,
    )


def test_locate_at_the_edges_of_a_page() raises:
    def check(position: Int, column: Int, slot: Int) raises:
        var located = Small.locate(position)
        assert_equal(located[0], column)
        assert_equal(located[1], slot)

    check(0, 0, 0)
    check(15, 0, 15)
    check(16, 1, 0)
    check(17, 1, 1)
    check((1 << 40) + 5, 1 << 36, 5)


def test_locate_is_invertible() raises:
    def column_and_slot_give_back_position(var position: UInt32) raises:
        var column, slot = Wide.locate(Int(position))
        assert_true(0 <= slot < 256)
        assert_equal(column * 256 + slot, Int(position))

    PropTest(config=PropTestConfig(seed=1)).test[
        column_and_slot_give_back_position
    ](UInt32.strategy())


def test_elements_of_a_plane_have_offsets_of_their_own() raises:
    var expected = 0
    for slot in range(16):
        for head in range(3):
            for dim in range(8):
                assert_equal(
                    Small.offset(page_offset=0, slot=slot, head=head, dim=dim),
                    expected,
                )
                expected += 1
    assert_equal(expected, Small.plane_stride)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
