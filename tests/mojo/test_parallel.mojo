from max.runtime.asyncrt import parallelism_level
from std.testing import TestSuite, assert_equal, assert_true

from kvcache.parallel import num_tasks, parallel_ranges, parallel_units


def check_ranges_cover(num_items: Int, amount: Int, grain: Int) raises:
    var visits = List[Int](length=num_items, fill=0)
    var places = visits.unsafe_ptr()

    def visit(begin: Int, end: Int) raises {imm}:
        assert_true(0 <= begin < end <= num_items)
        for item in range(begin, end):
            places[unsafe_offset=item] += 1

    parallel_ranges(visit, num_items=num_items, amount=amount, grain=grain)

    for item in range(num_items):
        assert_equal(visits[item], 1)


def check_units_are_done(num_units: Int, tasks: Int) raises:
    var visits = List[Int](length=num_units, fill=0)
    var places = visits.unsafe_ptr()

    def visit(unit: Int) raises {imm}:
        places[unsafe_offset=unit] += 1

    parallel_units(visit, num_units=num_units, tasks=tasks)

    for unit in range(num_units):
        assert_equal(visits[unit], 1)


def test_a_task_has_at_least_a_grain() raises:
    var cores = parallelism_level(None)
    assert_equal(num_tasks(amount=0, grain=7), 1)
    assert_equal(num_tasks(amount=13, grain=7), 1)
    assert_equal(num_tasks(amount=14, grain=7), min(cores, 2))
    assert_equal(num_tasks(amount=1 << 40, grain=7), cores)


def test_every_item_is_visited_once() raises:
    for num_items in range(0, 30):
        for grain in range(1, 6):
            check_ranges_cover(num_items, num_items, grain)
    check_ranges_cover(3, 10_007, 1)
    check_ranges_cover(10_007, 10_007, 1)
    check_ranges_cover(10_007, 20_012, 10_006)
    check_ranges_cover(10_007, 10_007, 1 << 40)


def test_nothing_is_called_without_items() raises:
    def fail(begin: Int, end: Int) raises {imm}:
        raise Error("called for [", begin, ", ", end, ")")

    parallel_ranges(fail, num_items=0, amount=9, grain=1)
    parallel_ranges(fail, num_items=-3, amount=9, grain=1)


def test_less_than_two_grains_stay_in_one_range() raises:
    var calls: List[Int] = [0]
    var count = calls.unsafe_ptr()

    def once(begin: Int, end: Int) raises {imm}:
        assert_equal(begin, 0)
        assert_equal(end, 7)
        count[unsafe_offset=0] += 1

    parallel_ranges(once, num_items=7, amount=1999, grain=1000)
    assert_equal(calls[0], 1)


def test_every_unit_is_done_once() raises:
    for num_units in range(0, 30):
        for tasks in range(1, 6):
            check_units_are_done(num_units, tasks)
    check_units_are_done(10_007, 2)


def test_units_of_one_task_are_done_in_order() raises:
    var seen: List[Int] = []
    var order = Pointer(to=seen)

    def note(unit: Int) raises {imm}:
        order[].append(unit)

    parallel_units(note, num_units=5, tasks=1)
    assert_equal(seen, [0, 1, 2, 3, 4])


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
