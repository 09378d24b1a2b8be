from std.testing import TestSuite, assert_almost_equal, assert_equal

from kvcache.rope import Rope

comptime UNTOUCHED = Float32(-99)


def ramp(length: Int, step: Float32) -> List[Float32]:
    """Returns `step`, `2 * step`, `3 * step` and so on."""
    var values = List[Float32]()
    for i in range(length):
        values.append(step * Float32(i + 1))
    return values^


def test_halves_by_hand() raises:
    # Pairs are (1, 3) and (2, 4); the last two elements stay.
    var source: List[Float32] = [1, 2, 3, 4, 5, 6]
    var freqs: List[Float32] = [10, 20, 0.5, 0.25]
    var target = List[Float32](length=6, fill=UNTOUCHED)
    for chunk in range(3):
        Rope[6, 4, False, 1].rotate(
            source.unsafe_ptr(), target.unsafe_ptr(), freqs.unsafe_ptr(), chunk
        )
    # 1*10 - 3*0.5, 2*20 - 4*0.25, 3*10 + 1*0.5, 4*20 + 2*0.25
    var expected: List[Float32] = [8.5, 39, 30.5, 80.5, 5, 6]
    for i in range(6):
        assert_equal(target[i], expected[i])


def test_neighbours_by_hand() raises:
    # Pairs are (1, 2) and (3, 4); the last two elements stay.
    var source: List[Float32] = [1, 2, 3, 4, 5, 6]
    var freqs: List[Float32] = [10, 20, 0.5, 0.25]
    var target = List[Float32](length=6, fill=UNTOUCHED)
    for chunk in range(3):
        Rope[6, 4, True, 1].rotate(
            source.unsafe_ptr(), target.unsafe_ptr(), freqs.unsafe_ptr(), chunk
        )
    # 1*10 - 2*0.5, 2*10 + 1*0.5, 3*20 - 4*0.25, 4*20 + 3*0.25
    var expected: List[Float32] = [9, 20.5, 59, 80.75, 5, 6]
    for i in range(6):
        assert_equal(target[i], expected[i])


def check_chunks[
    head_dim: Int, rope_dim: Int, interleaved: Bool, width: Int
]() raises:
    """Turns chunk by chunk and compares with the rotation of each pair."""
    comptime Turn = Rope[head_dim, rope_dim, interleaved, width]
    comptime half = rope_dim // 2
    var source = ramp(head_dim, 0.125)
    var freqs = ramp(rope_dim, 0.0625)
    var target = List[Float32](length=head_dim, fill=UNTOUCHED)
    var copied = List[Float32](length=head_dim, fill=UNTOUCHED)
    for chunk in range(Turn.num_chunks):
        var before = target.copy()
        Turn.rotate(
            source.unsafe_ptr(), target.unsafe_ptr(), freqs.unsafe_ptr(), chunk
        )
        Turn.copy(source.unsafe_ptr(), copied.unsafe_ptr(), chunk)
        var changed = 0
        for i in range(head_dim):
            if target[i] != before[i]:
                assert_equal(before[i], UNTOUCHED)
                changed += 1
        assert_equal(changed, 2 * width)
    for pair in range(half):
        comptime step = 2 if interleaved else 1
        comptime apart = 1 if interleaved else half
        var i = step * pair
        var x, y = source[i], source[i + apart]
        var cosine, sine = freqs[pair], freqs[half + pair]
        assert_almost_equal(target[i], x * cosine - y * sine, rtol=1e-6)
        assert_almost_equal(target[i + apart], y * cosine + x * sine, rtol=1e-6)
    for i in range(rope_dim, head_dim):
        assert_equal(target[i], source[i])
    for i in range(head_dim):
        assert_equal(copied[i], source[i])


def test_chunks_cover_a_head_once() raises:
    check_chunks[8, 8, False, 4]()
    check_chunks[8, 8, True, 4]()
    check_chunks[64, 64, False, 8]()
    check_chunks[64, 64, True, 8]()


def test_chunks_cover_a_head_of_which_a_part_turns() raises:
    check_chunks[8, 2, False, 1]()
    check_chunks[8, 4, True, 2]()
    check_chunks[40, 10, False, 1]()
    check_chunks[40, 10, True, 1]()
    check_chunks[80, 32, False, 8]()
    check_chunks[128, 64, True, 4]()


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
