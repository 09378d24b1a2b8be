from std.testing import TestSuite, assert_equal, assert_true

from kvcache.parallel import parallel_ranges


def check_ranges_cover(num_items: Int, grain: Int) raises:
    var visits = List[Int](length=num_items, fill=0)
    var places = visits.unsafe_ptr()

    def visit(begin: Int, end: Int) raises {imm}:
        assert_true(0 <= begin < end <= num_items)
        for item in range(begin, end):
            places[unsafe_offset=item] += 1

    parallel_ranges(visit, num_items=num_items, grain=grain)

    for item in range(num_items):
        assert_equal(visits[item], 1)


def test_every_item_is_visited_once() raises:
    for num_items in range(0, 30):
        for grain in range(1, 6):
            check_ranges_cover(num_items, grain)
    check_ranges_cover(10_007, 1)
    check_ranges_cover(10_007, 10_006)
    check_ranges_cover(10_007, 1 << 40)


def test_nothing_is_called_without_items() raises:
    def fail(begin: Int, end: Int) raises {imm}:
        raise Error("called for [", begin, ", ", end, ")")

    parallel_ranges(fail, num_items=0, grain=1)
    parallel_ranges(fail, num_items=-3, grain=1)


def test_few_items_stay_in_one_range() raises:
    var calls: List[Int] = [0]
    var count = calls.unsafe_ptr()

    def once(begin: Int, end: Int) raises {imm}:
        assert_equal(begin, 0)
        assert_equal(end, 7)
        count[unsafe_offset=0] += 1

    parallel_ranges(once, num_items=7, grain=7)
    assert_equal(calls[0], 1)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
