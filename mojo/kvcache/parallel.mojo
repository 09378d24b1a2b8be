"""Spreads work over the cores."""

from max.algorithm.backend.cpu.parallelize import sync_parallelize
from max.runtime.asyncrt import parallelism_level
from std.math import ceildiv

comptime GRAIN_BYTES = 1 << 17
"""The fewest bytes to move that are worth a core of their own."""


def parallel_ranges[
    WorkType: def(Int, Int) raises -> None
](work: WorkType, *, num_items: Int, grain: Int) raises:
    """Calls `work(begin, end)` on ranges that cover `[0, num_items)`.

    Parameters:
        WorkType: The type of the function.

    Args:
        work: The function; ranges run at the same time.
        num_items: How many items there are.
        grain: The fewest items worth a task of their own.

    Raises:
        If a call of `work` does.
    """
    if num_items <= 0:
        return
    var num_tasks = min(parallelism_level(None), ceildiv(num_items, grain))
    if num_tasks <= 1:
        work(0, num_items)
        return
    var share = ceildiv(num_items, num_tasks)

    def task(index: Int) raises {imm}:
        var begin = index * share
        var end = min(begin + share, num_items)
        if begin < end:
            work(begin, end)

    sync_parallelize(task, num_tasks)
