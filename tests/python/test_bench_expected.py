"""What the benchmark's model of a cache expects."""

from collections.abc import Callable

import numpy as np
import pytest
from benchmarks.manager.expected import CachedPages
from benchmarks.manager.ours import BatchSide, ObjectSide
from benchmarks.manager.sides import Policy, Pool, Side
from benchmarks.manager.streams import uneven_prompts
from benchmarks.manager.timing import Stopwatch
from benchmarks.manager.workloads import (
    Cold,
    Decode,
    Eviction,
    check_hits,
    check_tables,
    serve,
)

BLANK_FIRST = Policy(blank_first=True, hits_first=False)


def test_head_of_a_prefix_outlives_its_tail() -> None:
    pages = CachedPages(4, BLANK_FIRST)
    assert pages.serve(["abc"]) == 0
    assert pages.serve(["xy"]) == 0  # takes the blank page and c
    assert pages.serve(["abc"]) == 2


def test_least_recently_used_goes_first() -> None:
    pages = CachedPages(3, BLANK_FIRST)
    for key in "abcad":
        pages.serve([key])
    assert pages.serve(["a"]) == 1
    assert pages.serve(["b"]) == 0


@pytest.mark.parametrize(("hits_first", "hits"), [(False, 0), (True, 1)])
def test_hits_of_a_pass_are_safe_if_they_come_first(
    hits_first: bool, hits: int
) -> None:
    pages = CachedPages(2, Policy(blank_first=True, hits_first=hits_first))
    pages.serve(["a"])
    pages.serve(["b"])
    assert pages.serve(["c", "a"]) == hits


@pytest.mark.parametrize(("blank_first", "hits"), [(False, 0), (True, 1)])
def test_equal_requests_of_a_pass_leave_a_blank_page(
    blank_first: bool, hits: int
) -> None:
    pages = CachedPages(3, Policy(blank_first=blank_first, hits_first=False))
    pages.serve(["x"])
    assert pages.serve(["a", "a"]) == 0
    pages.serve(["b"])
    assert pages.serve(["x"]) == hits


def test_wrong_hits_stop_the_benchmark() -> None:
    work = Cold(num_requests=4, num_tokens=64)
    side = ObjectSide(work.pool(16))
    prompt = np.arange(64)
    hits = serve(side, [[prompt], [prompt]], Stopwatch())
    with pytest.raises(SystemExit, match="wanted hits of 0 tokens, got 48"):
        check_hits(side, hits, 0)


@pytest.mark.parametrize("interface", [BatchSide, ObjectSide])
def test_our_manager_evicts_as_expected(
    interface: Callable[[Pool], Side],
) -> None:
    work = Eviction(256, 32, 16, 2, 16, 32)
    assert work.run(interface(work.pool(16))).us > 0


@pytest.mark.parametrize("interface", [BatchSide, ObjectSide])
def test_wrong_lengths_stop_the_benchmark(
    interface: Callable[[Pool], Side],
) -> None:
    work = Decode(num_requests=2, num_tokens=40, num_steps=8)
    side = interface(work.pool(16))
    side.open(uneven_prompts(2, 40))
    side.admit()
    side.inputs()
    side.start(np.array([1, 2]))
    with pytest.raises(SystemExit, match="cache lengths are wrong"):
        check_tables(side, [40, 48])


@pytest.mark.parametrize("interface", [BatchSide, ObjectSide])
def test_our_interfaces_decode_with_the_right_tables(
    interface: Callable[[Pool], Side],
) -> None:
    work = Decode(num_requests=3, num_tokens=40, num_steps=20)
    assert work.run(interface(work.pool(16))).us > 0
