"""W5: the same operations in small and in large pools, empty and full."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.manager.sides import Factory, Pool, Side
from benchmarks.manager.streams import draw, in_passes
from benchmarks.manager.timing import Sample, Stopwatch, Timing, interleave
from benchmarks.manager.workloads import check_hits, serve

REQUEST_PAGES = 8
ROW_PAGES = 16
NUM_ROWS = 8
FILL_PAGES = 128
"""Pages of the prompts that fill a pool."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How much is done in each repeat."""

    num_requests: int = 64
    num_before: int = 16
    """Requests that bring a side's code and tables near, not timed."""
    num_steps: int = 128
    pool_sizes: tuple[int, ...] = (1024, 32_768, 1_048_576)


@dataclass(frozen=True, slots=True)
class Point:
    """One operation in one pool."""

    operation: str
    num_pages: int
    is_full: bool


def pool_of(num_pages: int, page_size: int) -> Pool:
    """Returns a pool for few requests."""
    return Pool(num_pages, page_size, NUM_ROWS, FILL_PAGES * page_size + 1)


def time_scaling(
    factories: Mapping[str, Factory],
    page_size: int,
    scaling: Scaling,
    repeats: int,
) -> dict[Point, dict[str, Timing]]:
    """Returns the time of a request and of a step, by pool and by side.

    Pools of all sizes take turns: a machine that slows down does so for each.
    """
    sides = {
        (num_pages, who): factory(pool_of(num_pages, page_size))
        for num_pages in scaling.pool_sizes
        for who, factory in factories.items()
    }
    timings: dict[Point, dict[str, Timing]] = {}
    for is_full in (False, True):
        if is_full:
            for side in sides.values():
                fill(side)
        for operation, run in (("request", _requests), ("decode step", _steps)):
            runs = {
                key: _numbered(run, side, scaling, is_full=is_full)
                for key, side in sides.items()
            }
            for (num_pages, who), timing in interleave(runs, repeats).items():
                point = Point(operation, num_pages, is_full)
                timings.setdefault(point, {})[who] = timing
    return timings


def time_construction(
    makers: Mapping[str, Callable[[Pool], object]],
    num_pages: int,
    page_size: int,
    repeats: int,
) -> dict[str, Timing]:
    """Returns the time in which the books of a pool are made, by side."""
    pool = pool_of(num_pages, page_size)

    def run(make: Callable[[Pool], object]) -> Sample:
        watch = Stopwatch()
        watch.start()
        make(pool)
        watch.stop()
        return watch.per(1)

    runs = {who: functools.partial(run, make) for who, make in makers.items()}
    return interleave(runs, repeats)


def fill(side: Side) -> None:
    """Caches prompts that share nothing until no page is blank."""
    side.reset()
    pool = side.pool
    length = min(FILL_PAGES, pool.num_pages) * pool.page_size
    prompts = pool.num_pages * pool.page_size // length
    watch = Stopwatch()
    for serial in range(prompts):
        serve(side, [[draw(10_000_000 + serial, length)]], watch)


def _numbered(
    run: Callable[[Side, Scaling, int], Sample],
    side: Side,
    scaling: Scaling,
    *,
    is_full: bool,
) -> Callable[[], Sample]:
    """Returns a run that draws other tokens each time, on all sides alike."""
    serial = 0

    def once() -> Sample:
        nonlocal serial
        serial += 1
        if not is_full:
            side.reset()
        return run(side, scaling, serial)

    return once


def _requests(side: Side, scaling: Scaling, serial: int) -> Sample:
    """Serves requests one by one; returns the time of one."""
    length = REQUEST_PAGES * side.pool.page_size
    before = list(draw(40_000_000 + serial, scaling.num_before, length))
    prompts = list(draw(20_000_000 + serial, scaling.num_requests, length))
    serve(side, in_passes(before, 1), Stopwatch())
    watch = Stopwatch()
    check_hits(side, serve(side, in_passes(prompts, 1), watch), 0)
    return watch.per(scaling.num_requests)


def _steps(side: Side, scaling: Scaling, serial: int) -> Sample:
    """Decodes a few rows; returns the time of a step."""
    length = (2 * ROW_PAGES - 1) * side.pool.page_size // 2
    side.open(list(draw(30_000_000 + serial, NUM_ROWS, length)))
    side.admit()
    side.inputs()
    check_hits(side, side.hits(), 0)
    tokens = draw(9, scaling.num_steps + 1, NUM_ROWS)
    side.start(tokens[0])
    watch = Stopwatch()
    side.decode(np.ascontiguousarray(tokens[1:]), watch)
    side.leave()
    return watch.per(scaling.num_steps)
