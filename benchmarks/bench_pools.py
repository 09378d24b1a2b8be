"""The token pools of `kvcache.pools` beside torch's own operations.

    python -m benchmarks.bench_pools --json benchmarks/results/pools.jsonl

`set_kv_buffer` writes the keys and values of tokens, 8 heads of 128 in
bfloat16 as in Llama 3, into scattered slots of a pool of 2**17, beside torch's
indexed copies, a straight copy of the same bytes, and our Mojo store kernel
called through MAX. The kernel writes into pages that hold keys and values
together, so it stands for what such a call costs: `set_kv_buffer` cannot use
it on buffers of keys alone.

`requests` turns a pool over once, in requests of 512 tokens, three quarters of
the pool held: nanoseconds for a token that is taken and given back, merges and
checks among it. `singles` takes and gives back one token, or one page, of a
pool that is full but for it: microseconds for both calls. torch's lists check
nothing.

Sides are interleaved, but for the kernel, and write the same slots, so that
these are warm. torch has one thread unless told otherwise, the kernel all
cores. A row gives the median and the spread.

`--device cuda` measures `set_kv_buffer` on a GPU instead, in captured graphs
(`benchmarks/results/pools_gpu.jsonl`).
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.pools import allocations
from benchmarks.rows import Row, context, processor, write

if TYPE_CHECKING:
    from benchmarks.pools.writes import Writes

TOKENS = [1, 64, 1024, 16384]
SIZES = [10**4, 10**5, 10**6]
PAGE_SIZES = [1, 16]
MIN_SECONDS = 2e-3

Runs = Mapping[str, Callable[[], object]]


def measure(runs: Runs, repeats: int) -> dict[str, list[float]]:
    """Returns each run's seconds, the runs interleaved, the first dropped.

    A run that is short is called so often that the clock can tell.
    """
    calls = {}
    for who, run in runs.items():
        run()
        begin = time.perf_counter()
        run()
        once = max(time.perf_counter() - begin, 1e-7)
        calls[who] = max(int(MIN_SECONDS / once), 1)
    seconds: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(repeats + 1):
        for who, run in runs.items():
            run()  # The side before left other slots in the caches.
            begin = time.perf_counter()
            for _ in range(calls[who]):
                run()
            seconds[who].append((time.perf_counter() - begin) / calls[who])
    return {who: values[1:] for who, values in seconds.items()}


def spread(seconds: list[float], unit: str, scale: float) -> Row:
    """Returns the median and the spread in a unit."""
    return {
        unit: round(scale * statistics.median(seconds), 3),
        f"{unit}_min": round(scale * min(seconds), 3),
        f"{unit}_max": round(scale * max(seconds), 3),
    }


def write_rows(repeats: int) -> Iterator[Row]:
    """Measures `set_kv_buffer`; yields the rows.

    The kernel comes last: MAX's threads look for work all the time, and torch
    would have one core less.
    """
    from benchmarks.pools import writes

    yield from side_rows(writes.Writes(), repeats)
    yield from side_rows(writes.Writes(writes.compile_store()), repeats)


def side_rows(sides: "Writes", repeats: int) -> Iterator[Row]:
    """Measures some ways to write; yields the rows."""
    from benchmarks.pools import writes

    for num_tokens in TOKENS:
        row_bytes = 2 * writes.NUM_HEADS * writes.HEAD_DIM * 2
        seconds = measure(sides.runs(num_tokens), repeats)
        for who, values in seconds.items():
            gbps = num_tokens * row_bytes / statistics.median(values) / 1e9
            yield {
                "case": f"set_kv_buffer {num_tokens}",
                "who": who,
                "num_tokens": num_tokens,
                **spread(values, "us", 1e6),
                "gbps": round(gbps, 3),
            }


def alloc_rows(repeats: int) -> Iterator[Row]:
    """Measures `alloc` and `free`; yields the rows."""
    for page_size in PAGE_SIZES:
        for size in SIZES:
            for case, unit in (("requests", "ns"), ("singles", "us")):
                runs, count = {}, 1
                for who, make in allocations.SIDES.items():
                    allocator = make(size, page_size)
                    if case == "requests":
                        runs[who], count = allocations.requests(allocator, size)
                    else:
                        runs[who], count = allocations.singles(
                            allocator, size, page_size
                        )
                scale = (1e9 if unit == "ns" else 1e6) / count
                for who, values in measure(runs, repeats).items():
                    yield {
                        "case": f"{case} of {size} slots",
                        "who": who,
                        "num_slots": size,
                        "page_size": page_size,
                        **spread(values, unit, scale),
                    }


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--what", nargs="*", default=["alloc", "write"])
    parser.add_argument("--threads", type=int, default=1, help="of torch's")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    if options.device == "cuda":
        from benchmarks.pools.gpu_writes import gpu_rows

        there = context(torch.cuda.get_device_name())
        write((row | there for row in gpu_rows()), options.json)
        return
    torch.set_num_threads(options.threads)
    where = context(processor()) | {"threads": torch.get_num_threads()}
    parts = {"alloc": alloc_rows, "write": write_rows}
    rows = (
        row | where
        for what in options.what
        for row in parts[what](options.repeats)
    )
    write(rows, options.json)


if __name__ == "__main__":
    main()
