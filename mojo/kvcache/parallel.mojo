"""Spreads work over the cores.

A second task costs 3 to 10 microseconds where its thread is awake, and some
hundred where it sleeps; what it reads, it reads from another core's caches. So
work is cut by how much of it there is, not by how many cores: what is less than
two grains is done where it is asked for.
"""

from max.algorithm.backend.cpu.parallelize import sync_parallelize
from max.runtime.asyncrt import parallelism_level
from std.atomic import Atomic
from std.math import ceildiv

comptime GRAIN_BYTES = 1 << 20
"""The fewest bytes to move that are worth a task of their own."""


def num_tasks(*, amount: Int, grain: Int) -> Int:
    """Returns how many tasks some work should be cut into.

    Args:
        amount: How much work there is.
        grain: The least that is worth a task of its own.

    Returns:
        The tasks, one for each core at the most.
    """
    return max(1, min(parallelism_level(None), amount // grain))


def parallel_ranges[
    WorkType: def(Int, Int) raises -> None
](work: WorkType, *, num_items: Int, amount: Int, grain: Int) raises:
    """Calls `work(begin, end)` on ranges that cover `[0, num_items)`.

    Parameters:
        WorkType: The type of the function.

    Args:
        work: The function; ranges run at the same time.
        num_items: How many items there are.
        amount: How much work all of them are.
        grain: The least that is worth a task of its own.

    Raises:
        If a call of `work` does.
    """
    if num_items <= 0:
        return
    var tasks = min(num_items, num_tasks(amount=amount, grain=grain))
    if tasks == 1:
        work(0, num_items)
        return
    var share = ceildiv(num_items, tasks)

    def task(index: Int) raises {imm}:
        var begin = index * share
        var end = min(begin + share, num_items)
        if begin < end:
            work(begin, end)

    sync_parallelize(task, tasks)


def parallel_units[
    WorkType: def(Int) raises -> None
](work: WorkType, *, num_units: Int, tasks: Int) raises:
    """Calls `work(unit)` for every unit; a task that is done takes the next.

    Parameters:
        WorkType: The type of the function.

    Args:
        work: The function; units run at the same time.
        num_units: How many units there are.
        tasks: How many tasks share them.

    Raises:
        If a call of `work` does.
    """
    if min(tasks, num_units) <= 1:
        for unit in range(num_units):
            work(unit)
        return
    var taken: List[Int64] = [0]
    var next = taken.unsafe_ptr()

    def task(index: Int) raises {imm}:
        while True:
            var unit = Int(Atomic.fetch_add(next, 1))
            if unit >= num_units:
                return
            work(unit)

    sync_parallelize(task, min(tasks, num_units))
    _ = taken^
