"""The CPU kernels beside torch's attention and beside plain copies.

    python -m benchmarks.bench_cpu_kernels \
        --json benchmarks/results/cpu_kernels.jsonl

Decode attention is held against `scaled_dot_product_attention` over contiguous
keys and values of the same shapes: torch's faster form of two, which the row
names. Store, gather and page copy are held against a memcpy of the same bytes.
Each kernel runs on one core and on two, in a process of its own; both cores
should be quiet.

The threads of either side go on looking for work for some milliseconds after
their last, and would take the other side's core. So the sides take turns, and a
turn is a pause, one run that wakes the threads, and the run that is timed. Each
move has turns of its own with the memcpy, and what is compared is the runs of
the same turn: the machine swings, both sides with it.

A graph has one call for each layer and a row gives the time of one call: what
one execution costs beyond its calls, about 43 microseconds, is spread over
them, up to 32. Layers are many enough that a step reads up to 1 GiB, so that
keys and values come from memory, as between a model's matrix products; the
small ones of SmolLM2 come from the last cache on both sides.

`ceiling_pct` is the rate beside a plain read of as many bytes (attention) or a
memcpy of as many (the others; the median of all turns), on as many cores in the
same run; `times_torch` is how many times as fast as the faster form of torch's
attention ours is, the median of all turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.cpu_kernels import cases
from benchmarks.rows import Row, context, processor, write

DTYPES = ["float32", "bfloat16"]
PAGE_SIZES = [16, 128]
BATCHES = [1, 4, 16]
CONTEXTS = [512, 2048, 8192]
CEILING_BYTES = 512 << 20
PAUSE = 0.03
"""The seconds of a pause; the threads of both sides sleep before its end."""

Runs = Mapping[str, Callable[[], object]]


def measure(runs: Runs, repeats: int) -> dict[str, list[float]]:
    """Returns each run's seconds, turn by turn; the first turn is dropped."""
    seconds: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(repeats + 1):
        for who, run in runs.items():
            time.sleep(PAUSE)
            run()
            begin = time.perf_counter()
            run()
            seconds[who].append(time.perf_counter() - begin)
    return {who: values[1:] for who, values in seconds.items()}


def ratio(many: list[float], few: list[float]) -> float:
    """Returns the median of the turns' ratios."""
    return statistics.median(a / b for a, b in zip(many, few, strict=True))


def decode_rows(options: argparse.Namespace, read_gbps: float) -> Iterator[Row]:
    """Measures the decode steps; yields the rows."""
    from benchmarks.cpu_kernels import ours, peers

    chosen = [
        case
        for case in cases.decodes(
            options.dtypes, options.page_sizes, BATCHES, CONTEXTS
        )
        if options.only in str(case)
    ]
    settings = list({case.setting: None for case in chosen})
    models = ours.compile_graphs(settings)
    for setting in settings:
        ours.check(models, setting)
    for case in chosen:
        runs = {
            "kvcache": ours.decode(models, case),
            **peers.torch_decodes(case, options.cores),
        }
        seconds = measure(runs, options.repeats)
        ours_seconds, *theirs = seconds.values()
        faster = min(theirs, key=statistics.median)
        for who, values in seconds.items():
            each = row(case, who, values, ceiling_gbps=read_gbps)
            if values is ours_seconds:
                each["times_torch"] = round(ratio(faster, values), 2)
            yield each


def row(
    case: cases.Decode,
    who: str,
    seconds: list[float],
    *,
    ceiling_gbps: float,
) -> Row:
    """Returns one row: the time of one layer, the median and the spread."""
    calls = case.setting.num_layers
    micros = [1e6 * each / calls for each in seconds]
    gbps = case.num_bytes / statistics.median(micros) / 1e3
    return {
        "case": str(case),
        "who": who,
        "page_size": case.setting.page_size,
        "us": round(statistics.median(micros), 1),
        "us_min": round(min(micros), 1),
        "us_max": round(max(micros), 1),
        "gbps": round(gbps, 2),
        "ceiling_pct": round(100 * gbps / ceiling_gbps, 1),
    }


def move_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Measures store, gather and page copy; yields the rows."""
    from benchmarks.cpu_kernels import ours, peers

    settings = [
        setting
        for setting in cases.settings(options.dtypes, options.page_sizes)
        if setting.num_layers == ours.MOVED_LAYERS
    ]
    models = ours.compile_graphs(settings)
    num_bytes = ours.MOVED_LAYERS * cases.TABLE_BYTES
    memcpy = peers.memcpy(num_bytes, options.cores)
    for setting in settings:
        name = f"{setting.model.name} {setting.dtype}"
        copies: list[float] = []
        for what, run in ours.moves(models, setting).items():
            seconds = measure({what: run, "memcpy": memcpy}, options.repeats)
            copies += seconds["memcpy"]
            moved = num_bytes // 2 if what == "copy_pages" else num_bytes
            beside = ratio(seconds["memcpy"], seconds[what])
            yield {
                **moved_row(f"{what} {name}", "kvcache", seconds[what], moved),
                "page_size": setting.page_size,
                "ceiling_pct": round(100 * beside * moved / num_bytes, 1),
            }
        yield {
            **moved_row(f"memcpy {name}", "numpy", copies, num_bytes),
            "page_size": setting.page_size,
            "ceiling_pct": 100.0,
        }


def moved_row(case: str, who: str, seconds: list[float], moved: int) -> Row:
    """Returns what a row of moves says of its times."""
    micros = 1e6 * statistics.median(seconds)
    return {
        "case": case,
        "who": who,
        "us": round(micros, 1),
        "us_min": round(1e6 * min(seconds), 1),
        "us_max": round(1e6 * max(seconds), 1),
        "gbps": round(moved / micros / 1e3, 2),
    }


def rows_here(options: argparse.Namespace) -> Iterator[Row]:
    """Measures in this process, which has the cores that it should have."""
    from benchmarks.cpu_kernels import peers

    where = context(processor()) | {"cores": options.cores}
    read = measure(
        {"read": peers.read(CEILING_BYTES, options.cores)}, options.repeats
    )["read"]
    read_gbps = CEILING_BYTES / statistics.median(read) / 1e9
    yield {"case": "read", "who": "numpy", "gbps": round(read_gbps, 2)} | where
    if "decode" in options.what:
        for each in decode_rows(options, read_gbps):
            yield each | where
    if "moves" in options.what:
        for each in move_rows(options):
            yield each | where


def rows_of_cores(arguments: list[str], num_cores: int) -> list[Row]:
    """Measures in a process that has so many cores."""
    allowed = sorted(os.sched_getaffinity(0))[:num_cores]
    if len(allowed) < num_cores:
        return []
    run = subprocess.run(
        [
            *(sys.executable, "-m", __spec__.name, *arguments),
            *("--cores", str(num_cores)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    return [json.loads(line) for line in run.stdout.splitlines()]


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtypes", nargs="*", default=DTYPES)
    parser.add_argument("--page-sizes", nargs="*", type=int, default=PAGE_SIZES)
    parser.add_argument("--what", nargs="*", default=["decode", "moves"])
    parser.add_argument("--only", default="", help="cases that have this")
    parser.add_argument("--cores", type=int, help="measure in this process")
    options = parser.parse_args()
    if options.cores:
        write(rows_here(options), None)
        return
    rows = (
        each
        for num_cores in (1, 2)
        for each in rows_of_cores(sys.argv[1:], num_cores)
    )
    write(rows, options.json)


if __name__ == "__main__":
    main()
