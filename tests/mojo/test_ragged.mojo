from std.testing import TestSuite, assert_equal

from kvcache.ragged import RaggedBatch


def check_owners(lengths: List[Int]) raises:
    var offsets: List[UInt32] = [0]
    var owners = List[Int]()
    for seq in range(len(lengths)):
        offsets.append(offsets[seq] + UInt32(lengths[seq]))
        for _ in range(lengths[seq]):
            owners.append(seq)
    var batch = RaggedBatch(offsets.unsafe_ptr(), len(lengths))

    assert_equal(batch.num_rows(), len(owners))
    for row in range(len(owners)):
        assert_equal(batch.sequence_of(row), owners[row])
    for seq in range(len(lengths)):
        assert_equal(batch.start(seq + 1) - batch.start(seq), lengths[seq])
    _ = offsets^  # the batch does not keep them alive


def test_batch_without_sequences_has_no_rows() raises:
    check_owners(List[Int]())


def test_one_sequence_owns_all_rows() raises:
    check_owners([1])
    check_owners([9])


def test_sequence_owns_its_first_and_its_last_row() raises:
    check_owners([3, 1, 4])


def test_empty_sequences_own_nothing() raises:
    check_owners([0])
    check_owners([0, 0, 0])
    check_owners([0, 2])
    check_owners([2, 0])
    check_owners([0, 0, 3, 0, 1, 0, 0])


def test_every_batch_of_short_sequences() raises:
    for code in range(3**6):
        var lengths = List[Int]()
        var rest = code
        for _ in range(6):
            lengths.append(rest % 3)
            rest //= 3
        check_owners(lengths)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
