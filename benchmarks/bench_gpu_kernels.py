"""The kernels on one GPU, beside MAX's, Triton's and torch's, and its memory.

    python -m benchmarks.bench_gpu_kernels --json FILE

compiles the graphs and runs them. For a machine without a compiler,
`--prepare FOLDER` compiles them for a Hopper GPU on a machine without one, and
`--load FOLDER` runs them there. `--only TEXT` picks subjects by their names.

Every subject holds its results against the reference before it is timed. Times
are of captured graphs that are replayed, by the device's clock: the median of
some repeats, per layer. The layout is Llama 3 8B's, bfloat16, on random pages;
each layer has its own pages, more bytes than the L2 cache has wherever a batch
is large. The ceilings are measured in the same run.
"""

import argparse
import gc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from max.driver import Accelerator, accelerator_count
from max.engine import InferenceSession
from max.graph import Module

from benchmarks.gpu_kernels import (
    ceilings,
    decode,
    host,
    pages,
    prefill,
    rope_store,
    store,
    store_codes,
)
from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_tests import gpu_name
from benchmarks.rows import Row, context, write
from kvcache.ops import precompiled_package

SUBJECTS: dict[str, ModuleType] = {
    "decode": decode,
    "prefill": prefill,
    "store": store,
    "rope_store": rope_store,
    "store_codes": store_codes,
    "pages": pages,
    "host": host,
}
"""What is measured; each compiles into a file of its own."""


def graphs_of(subject: ModuleType) -> Module:
    """Returns the graphs of one subject."""
    module = Module()
    subject.add_graphs(module)
    return module


def prepare(folder: Path, chosen: list[str]) -> None:
    """Compiles for a GPU that need not be there.

    Args:
        folder: Where the compiled graphs go.
        chosen: Names of subjects.
    """
    from tools.compile_for_gpu import virtual_hopper

    session = InferenceSession(devices=[virtual_hopper()])
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        compiled = session.compile(
            graphs_of(SUBJECTS[name]),
            custom_extensions=[precompiled_package()],
        )
        compiled.export_mef(folder / f"{name}.mef")
        print(f"{name}: {(folder / f'{name}.mef').stat().st_size} bytes")
        del compiled
    # MAX 26.7 aborts now and then where a session lives until Python's end.
    del session
    gc.collect()


def measure(folder: Path | None, chosen: list[str]) -> Iterator[Row]:
    """Yields the rows of the ceilings, then those of the subjects.

    Args:
        folder: Where compiled graphs are; else they are compiled here.
        chosen: Names of subjects.
    """
    device = Accelerator()
    reached = ceilings.measure_ceilings(device)
    for name, gbps in reached.items():
        yield {"case": f"ceiling {name}", "gbps": round(gbps, 1)}
    session = InferenceSession(devices=[device])
    for name in chosen:
        subject = SUBJECTS[name]
        if folder is not None:
            models = session.load_all(folder / f"{name}.mef")
        else:
            models = session.load_all(
                graphs_of(subject), custom_extensions=[precompiled_package()]
            )
        bench = Bench(models, device, reached)
        subject.measure(bench)
        yield from bench.rows


def main() -> None:
    """Compiles or measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prepare", type=Path, metavar="FOLDER")
    parser.add_argument("--load", type=Path, metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--json", type=Path, help="write the rows there")
    args = parser.parse_args()
    chosen = [name for name in SUBJECTS if args.only in name]
    if args.prepare is not None:
        prepare(args.prepare, chosen)
        return
    if not accelerator_count():
        print("bench_gpu_kernels: wanted a GPU, found none; nothing measured")
        return
    where = context(gpu_name())
    write((row | where for row in measure(args.load, chosen)), args.json)


if __name__ == "__main__":
    main()
