"""The manager's host side beside MAX's two managers, in the same process.

    python -m benchmarks.bench_manager --json benchmarks/results/manager.jsonl

The same streams of tokens go through every side, one repeat of each in turn.
Timed are reservation, the inputs in buffers for the graph, the commit and, but
for decoding, the release; what an engine does on its own is not: making
requests and telling them their tokens. A wrong number of hits stops it. Times
are microseconds per request (W1, W2, W4, W5), per step (W3, W5) and per prompt
of 65,536 tokens (hash); `inputs_us` is the part of the inputs, `growth` in W5
how many times as long we take as in the pool in which we are fastest.

W1     256 requests of 4,096 tokens that share nothing, 8 admitted at a time
W2     1,000 requests, 2,048 tokens shared and 256 own, 8 at a time
W3     256 running requests of about 2,000 tokens, 500 steps
W4     1,024 documents of 64 pages, Zipf 1, and 8 own pages; 16,384 pages
W5     one request of 8 pages, and a step of 8 rows, in pools of all sizes
hash   digests of the pages of a prompt

The peers want `max[serve]`, which `pip install kvcache[peers]` brings.
"""

import argparse
import functools
import gc
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.manager import ours, report
from benchmarks.manager.footprint import measure
from benchmarks.manager.hashing import PROMPT_TOKENS, time_hashing
from benchmarks.manager.lineup import LineUp, line_up
from benchmarks.manager.report import Figures, is_ours
from benchmarks.manager.scaling import (
    Scaling,
    time_construction,
    time_scaling,
)
from benchmarks.manager.sides import Factory
from benchmarks.manager.timing import Timing, interleave
from benchmarks.manager.workloads import (
    Cold,
    Decode,
    Eviction,
    Shared,
    Workload,
)
from benchmarks.rows import Row

W3_CASES = {
    ours.BATCH: "W3-batch",
    ours.OBJECTS: "W3-objects",
    ours.MAX_OBJECTS: "W3-max-objects",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    workloads: tuple[Workload, ...] = (Cold(), Shared(), Decode(), Eviction())
    scaling: Scaling = field(default_factory=Scaling)
    hash_rounds: int = 16
    page_sizes: tuple[int, ...] = (16, 128)
    footprint_page_size: int | None = 16
    """Page size at which books are weighed; the tokens are part of them."""


QUICK = Plan(
    workloads=(
        Cold(16, 512),
        Shared(24, 512, 256),
        Decode(4, 200, 20),
        Eviction(512, 32, 16, 2, 16, 32),
    ),
    scaling=Scaling(8, 2, 16, (256, 1024)),
    hash_rounds=1,
    page_sizes=(16,),
    footprint_page_size=None,
)
"""Everything once and small, to see that it runs; its times say nothing."""


def bench(
    plan: Plan, sides: LineUp, *, repeats: int, only: str = ""
) -> Iterator[Row]:
    """Measures every case whose name begins with `only`; yields the rows."""
    where = report.where()
    gc.freeze()  # What is imported by now is not searched between the runs.
    for figures in _figures(plan, sides, repeats=repeats, only=only):
        for row in report.rows(figures):
            yield row | where


def _figures(
    plan: Plan, sides: LineUp, *, repeats: int, only: str
) -> Iterator[Figures]:
    for page_size in plan.page_sizes:
        for work in plan.workloads:
            if _is_wanted(work.case, only):
                yield from _workload(work, sides, page_size, repeats)
    for page_size in plan.page_sizes:
        if _is_wanted("W5", only):
            yield from _scaling(plan, sides, page_size, repeats)
        if _is_wanted("hash", only):
            yield _hashing(plan, sides, page_size, repeats)


def _is_wanted(case: str, only: str) -> bool:
    return case.startswith(only) or only.startswith(f"{case}-")


def _workload(
    work: Workload, sides: LineUp, page_size: int, repeats: int
) -> Iterator[Figures]:
    factories = dict(sides.factories)
    if work.case != "W3":
        factories.pop(ours.MAX_OBJECTS, None)
    pool = work.pool(page_size)
    runs = {
        who: functools.partial(work.run, factory(pool))
        for who, factory in factories.items()
    }
    timings = interleave(runs, repeats)
    details = {"num_pages": pool.num_pages}
    if work.case != "W3":
        yield Figures(work.case, page_size, timings, details)
        return
    others = {who: t for who, t in timings.items() if not is_ours(who)}
    for who, case in W3_CASES.items():
        if who in timings:
            both = {who: timings[who]} | others
            yield Figures(case, page_size, both, details)


def _scaling(
    plan: Plan, sides: LineUp, page_size: int, repeats: int
) -> Iterator[Figures]:
    best: dict[str, Factory] = {sides.best: sides.ours[sides.best]}
    chosen = best | sides.peers
    timings = time_scaling(chosen, page_size, plan.scaling, repeats)
    for point, found in timings.items():
        fastest = min(
            other[sides.best].us
            for where, other in timings.items()
            if where.operation == point.operation
        )
        details = {
            "operation": point.operation,
            "num_pages": point.num_pages,
            "is_full": point.is_full,
            "growth": round(found[sides.best].us / fastest, 2),
        }
        yield Figures("W5", page_size, found, details)
    num_pages = plan.scaling.pool_sizes[-1]
    found = time_construction(sides.books, num_pages, page_size, repeats)
    details = {"operation": "construction", "num_pages": num_pages}
    yield Figures(
        "W5", page_size, found, details | _bytes(plan, found, page_size)
    )


def _bytes(
    plan: Plan, found: dict[str, Timing], page_size: int
) -> dict[str, object]:
    """Returns the bytes per page of every side's books in the largest pool."""
    if page_size != plan.footprint_page_size:
        return {}
    num_pages = plan.scaling.pool_sizes[-1]
    weights = {who: measure(who, num_pages, page_size) for who in found}
    return {
        "bytes_per_page_empty": {w: round(f.empty) for w, f in weights.items()},
        "bytes_per_page_full": {w: round(f.full) for w, f in weights.items()},
    }


def _hashing(
    plan: Plan, sides: LineUp, page_size: int, repeats: int
) -> Figures:
    timings = time_hashing(
        sides.hashes, page_size, repeats=repeats, rounds=plan.hash_rounds
    )
    rates = {
        who: round(PROMPT_TOKENS / timing.us) for who, timing in timings.items()
    }
    return Figures(
        "hash", page_size, timings, {"million_tokens_per_second": rates}
    )


def _kept(found: Iterable[Row], path: Path | None) -> Iterator[Row]:
    """Passes rows on, and writes each to a file as it comes."""
    if path is None:
        yield from found
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in found:
            print(json.dumps(row), file=file, flush=True)
            yield row


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--only", default="", help="cases that begin so")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args()
    sides = line_up()
    for line in sides.missing:
        print(f"not measured: {line}", file=sys.stderr)
    plan = QUICK if args.quick else Plan()
    found = bench(plan, sides, repeats=args.repeats, only=args.only)
    for line in report.table(_kept(found, args.json)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
