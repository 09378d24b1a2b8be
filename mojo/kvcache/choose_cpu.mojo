"""Chooses blocks by their scores, on the CPU."""

from std.sys import simd_width_of

from .block_choice import BlockChoice, ChoiceShape
from .parallel import parallel_ranges
from .ranked_rows import RankedRows
from .score_keys import DIGITS, DIGIT_BITS, KEY_BITS, Bar, sortable

comptime GRAIN_BLOCKS = 1 << 14
"""The fewest blocks to choose from that are worth a task of their own."""


def choose_cpu[shape: ChoiceShape](choice: BlockChoice[shape]) raises:
    """Chooses the blocks of every sequence under every head.

    Parameters:
        shape: What the choice is compiled for.

    Args:
        choice: The tensors.

    Raises:
        If a task fails.
    """
    for seq in range(Int(choice.batch.batch_size)):
        var position = choice.position(seq)
        var length = 0
        if position >= 0:
            var count = choice.num_chosen(seq, position // shape.block_size + 1)
            length = choice.length(position, count)
        choice.sparse_lengths[unsafe_offset=seq] = UInt32(length)

    def work(begin: Int, end: Int) raises {imm}:
        var keys = List[UInt32](unsafe_uninit_length=choice.width())
        for row in range(begin, end):
            _choose_row(choice, row, keys)

    parallel_ranges(
        work,
        num_items=choice.num_rows(),
        amount=choice.num_rows() * choice.width(),
        grain=GRAIN_BLOCKS,
    )


def _choose_row[
    shape: ChoiceShape
](choice: BlockChoice[shape], row: Int, mut keys: List[UInt32]):
    """Chooses the blocks of one sequence under one head."""
    var seq = row // shape.num_kv_heads
    var position = choice.position(seq)
    if position < 0:
        return
    var num_blocks = position // shape.block_size + 1
    var count = choice.num_chosen(seq, num_blocks)
    choose_row(choice, row, num_blocks, count, keys)


def choose_row[
    Rows: RankedRows, //
](choice: Rows, row: Int, num_blocks: Int, count: Int, mut keys: List[UInt32]):
    """Writes the chosen blocks of one sequence and head, ascending.

    Parameters:
        Rows: The layout of scores and blocks.

    Args:
        choice: The tensors.
        row: The sequence and head.
        num_blocks: Its blocks, the last one included.
        count: How many are chosen: all, or at least the reserved ones.
        keys: Room for as many keys as there are blocks.
    """
    var target = choice.row_target(row)
    if count == num_blocks:
        for block in range(num_blocks):
            target[unsafe_offset=block] = choice.row_block(row, block)
        return
    var first, last = choice.num_first(), choice.num_last()
    for block in range(first):
        target[unsafe_offset=block] = choice.row_block(row, block)
    for i in range(last):
        target[unsafe_offset=count - last + i] = choice.row_block(
            row, num_blocks - last + i
        )
    var wanted = count - first - last
    if wanted == 0:
        return
    var num_keys = num_blocks - first - last
    _read_keys(choice.row_scores(row).unsafe_offset(first), keys, num_keys)
    var bar = _bar_of(keys, num_keys, wanted)
    var next = first
    for i in range(num_keys):
        var is_chosen = bar.is_above(keys[i])
        if bar.is_at(keys[i]) and bar.wanted > 0:
            bar.wanted -= 1
            is_chosen = True
        if is_chosen:
            target[unsafe_offset=next] = choice.row_block(row, first + i)
            next += 1


def _read_keys(
    scores: Pointer[Float32, ImmUntrackedOrigin],
    mut keys: List[UInt32],
    num_keys: Int,
):
    """Turns scores into keys."""
    comptime width = simd_width_of[DType.float32]()
    var target = keys.unsafe_ptr()
    var whole = num_keys // width * width
    for i in range(0, whole, width):
        target.unsafe_store(i, sortable(scores.unsafe_load[width=width](i)))
    for i in range(whole, num_keys):
        target[unsafe_offset=i] = sortable(scores[unsafe_offset=i])


def _bar_of(keys: List[UInt32], num_keys: Int, wanted: Int) -> Bar:
    """Finds what the highest keys reach."""
    var bar = Bar(wanted)
    comptime for turn in range(KEY_BITS // DIGIT_BITS):
        comptime shift = KEY_BITS - (turn + 1) * DIGIT_BITS
        var counts = Array[Int32, DIGITS](fill=0)
        for i in range(num_keys):
            if bar.is_at(keys[i]):
                counts[Int((keys[i] >> UInt32(shift)) % DIGITS)] += 1
        var above = Int32(0)
        var digit = DIGITS - 1
        while above + counts[digit] < bar.wanted:
            above += counts[digit]
            digit -= 1
        bar.learn(UInt32(digit), shift, above)
    return bar
