"""Decode steps that attend to chosen blocks, beside our dense ones.

    python -m benchmarks.bench_sparse --json FILE

measures on a GPU if there is one, else on the CPU at smaller sizes. For a
machine without a compiler, `--prepare FOLDER` compiles for a Hopper GPU on a
machine without one, and `--load FOLDER` measures there.

The layout is Llama 3 8B's: 32 query heads over 8 key-value heads of 128, pages
of 128 tokens in random order, blocks of 64. A time is that of one layer: scores
and choice of blocks, and attention to them. `speedup` is over dense decode of
the same batch in the same run. Rows of stores have those of all layers of a
step, without and with the summaries of the blocks that it completes, per layer,
and without and with the rotation (`rope_store`) that models do with it;
those of `decode 64` are means over 16 steps of the 64 that complete a block of
each sequence.
On a GPU graphs are captured and replayed, and timed by the device's clock; on
the CPU whole executions are timed.
"""

import argparse
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from max.driver import CPU, Accelerator, Buffer, accelerator_count
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import Module
from tests.kernels.buffers import to_array

from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_tests import gpu_name
from benchmarks.rows import Row, context, processor, write
from benchmarks.sparse import step_graphs, steps
from kvcache.flow_ops import FlowOps
from kvcache.summaries import Summaries

RATIOS = (1 / 16, 1 / 8, 1 / 4)
GPU_CASES = (
    *((batch, 8_192) for batch in (1, 8, 64)),
    *((batch, 32_768) for batch in (1, 8, 64)),
    *((batch, 131_072) for batch in (1, 8, 64)),
)
CPU_CASES = ((1, 4_096), (1, 16_384), (4, 8_192))
FEW_LAYERS, MANY_LAYERS = 2, 16
MANY_TOKENS = 300_000
"""The most tokens of a batch that has many layers in the memory of a GPU."""
CPU_LAYERS = 4
STORE_LAYERS = 32
"""The model's layers, whose summaries are made in one launch."""
MEF, FLOWS_FILE = "sparse.mef", "flows.json"

Timer = Callable[[str, int, tuple[Buffer, ...]], float]
"""Returns the microseconds of one layer of a graph."""


def layers_of(machine: steps.Machine, batch: int, length: int) -> int:
    """Returns the layers that a batch is measured with."""
    if machine.device.is_host:
        return CPU_LAYERS
    return MANY_LAYERS if batch * length <= MANY_TOKENS else FEW_LAYERS


def module_of(machine: steps.Machine, flows: dict[str, FlowOps]) -> Module:
    """Returns all graphs."""
    module = Module()
    counts = [FEW_LAYERS, MANY_LAYERS]
    if machine.device.is_host:
        counts = [CPU_LAYERS]
    stored = CPU_LAYERS if machine.device.is_host else STORE_LAYERS
    step_graphs.add_graphs(module, machine, flows, counts, store_layers=stored)
    return module


def measure(
    machine: steps.Machine, timer: Timer, flows: dict[str, Summaries]
) -> Iterator[Row]:
    """Yields the rows of all batches."""
    cases = CPU_CASES if machine.device.is_host else GPU_CASES
    for batch, length in cases:
        layers = layers_of(machine, batch, length)
        case = f"{batch}x{length}"
        base = steps.step(
            machine,
            batch=batch,
            context=length,
            num_layers=layers,
            summaries=None,
        )
        dense = timer("dense", layers, base.inputs)
        yield {"case": f"decode {case}", "who": "dense", "us": round(dense, 2)}
        for name, summaries in flows.items():
            own = steps.step(
                machine,
                batch=batch,
                context=length,
                num_layers=layers,
                summaries=summaries,
                pages=base.cache[0],
            )
            for ratio in RATIOS:
                step = own.with_ratio(machine, ratio)
                whole = timer(f"{name}_attend", layers, step.inputs)
                choice = timer(f"{name}_choose", layers, step.inputs)
                yield {
                    "case": f"decode {case}",
                    "who": name,
                    "ratio": ratio,
                    "us": round(whole, 2),
                    "choice_us": round(choice, 2),
                    "speedup": round(dense / whole, 2),
                }
            del own, step
        del base
        gc.collect()


def measure_stores(
    machine: steps.Machine, timer: Timer, flows: dict[str, Summaries]
) -> Iterator[Row]:
    """Yields what keeping summaries adds to the stores of all layers.

    A decode step is measured as a mean over steps, since now one block gets
    complete and then none, and at its best and its worst.
    """
    layers, batch_size, longest = STORE_LAYERS, 64, 4096
    if machine.device.is_host:
        layers, batch_size, longest = CPU_LAYERS, 16, 1024
    rng = np.random.default_rng(8)
    drawn = rng.integers(0, longest, batch_size).tolist()
    few, half = batch_size // 8, longest // 2
    steps_of = {
        f"decode {batch_size}": [
            [(cached + step, 1) for cached in drawn]
            for step in range(0, steps.BLOCK_SIZE, steps.BLOCK_SIZE // 16)
        ],
        f"decode {batch_size}, no block complete": [
            [(cached - cached % steps.BLOCK_SIZE, 1) for cached in drawn]
        ],
        f"decode {batch_size}, every block complete": [
            [(longest - 1, 1)] * batch_size
        ],
        f"prompts {few}x{half}": [[(0, half)] * few],
        f"prompts {few // 4}x{longest} behind 300": [
            [(300, longest)] * (few // 4)
        ],
        **{
            f"prompts 1x{length}": [[(0, length)]]
            for length in (longest // 8, longest // 2, longest)
        },
    }
    for case, lengths_of_steps in steps_of.items():
        for name, summaries in flows.items():
            times: dict[str, list[float]] = {}
            for lengths in lengths_of_steps:
                batch = steps.stores(
                    machine, lengths, num_layers=layers, summaries=summaries
                )
                for what, inputs in (
                    ("store", batch.inputs),
                    ("rope_store", batch.rotated(machine)),
                ):
                    for graph in (f"{what}_only", what):
                        us = timer(f"{name}_{graph}", layers, inputs)
                        times.setdefault(graph, []).append(us)
            mean = {graph: statistics.mean(us) for graph, us in times.items()}
            for what in ("store", "rope_store"):
                alone, both = mean[f"{what}_only"], mean[what]
                yield {
                    "case": f"{what} {case}",
                    "who": name,
                    "layers": layers,
                    "us": round(alone, 3),
                    "with_summaries_us": round(both, 3),
                    "added_pct": round(100 * (both / alone - 1), 1),
                }


def check(
    machine: steps.Machine,
    models: dict[str, Model],
    flows: dict[str, Summaries],
) -> None:
    """Holds each flow's attention to all blocks against the dense one.

    Raises:
        AssertionError: If an output is another one.
    """
    layers = layers_of(machine, 3, 1024)
    for name, summaries in flows.items():
        step = steps.step(
            machine,
            batch=3,
            context=1024,
            num_layers=layers,
            summaries=summaries,
        )
        plain = (*step.cache[:4], *step.inputs[len(step.cache) :])
        dense = models[f"dense_{layers}"].execute(*plain)
        sparse = models[f"{name}_attend_{layers}"].execute(*step.inputs)
        for one, other in zip(dense, sparse, strict=True):
            np.testing.assert_allclose(
                to_array(other), to_array(one), rtol=2.0**-7, atol=0.004
            )


def prepare(folder: Path) -> None:
    """Compiles for a GPU that need not be there."""
    from tools.compile_for_gpu import virtual_hopper

    machine = steps.Machine(virtual_hopper(), DType.bfloat16)
    flows = {
        name: step_graphs.flow_named(name, machine) for name in steps.FLOWS
    }
    session = InferenceSession(devices=[machine.device])
    folder.mkdir(parents=True, exist_ok=True)
    compiled = session.compile(
        module_of(machine, flows),
        custom_extensions=step_graphs.extensions(flows.values()),
    )
    compiled.export_mef(folder / MEF)
    (folder / FLOWS_FILE).write_text(steps.to_json(flows))
    # MAX 26.7 aborts now and then where a session lives until Python's end.
    del session, compiled
    gc.collect()


def load(
    machine: steps.Machine, folder: Path | None
) -> tuple[dict[str, Model], dict[str, Summaries]]:
    """Returns the graphs, compiled before or now, and the flows' summaries."""
    session = InferenceSession(devices=[machine.device])
    if folder is not None:
        flows_text = (folder / FLOWS_FILE).read_text()
        models = session.load_all(folder / MEF)
        return dict(models), steps.from_json(flows_text)
    flows = {
        name: step_graphs.flow_named(name, machine) for name in steps.FLOWS
    }
    models = session.load_all(
        module_of(machine, flows),
        custom_extensions=step_graphs.extensions(flows.values()),
    )
    return dict(models), {k: v.summaries for k, v in flows.items()}


def gpu_timer(bench: Bench) -> Timer:
    """Returns what times captured graphs by the device's clock."""

    def us(name: str, layers: int, inputs: tuple[Buffer, ...]) -> float:
        return bench.graph_us(f"{name}_{layers}", *inputs, calls=layers)

    return us


def cpu_timer(models: dict[str, Model], repeats: int) -> Timer:
    """Returns what times executions, the first one dropped."""

    def us(name: str, layers: int, inputs: tuple[Buffer, ...]) -> float:
        seconds = []
        for _ in range(repeats + 1):
            begin = time.perf_counter()
            models[f"{name}_{layers}"].execute(*inputs)
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds[1:]) / layers * 1e6

    return us


def main() -> None:
    """Compiles or measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prepare", type=Path, metavar="FOLDER")
    parser.add_argument("--load", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    if args.prepare is not None:
        prepare(args.prepare)
        return
    if accelerator_count():
        machine = steps.Machine(Accelerator(), DType.bfloat16)
        models, flows = load(machine, args.load)
        where = context(gpu_name())
        timer = gpu_timer(Bench(models, machine.device, {}))
    else:
        machine = steps.Machine(CPU(), DType.float32)
        models, flows = load(machine, args.load)
        where = context(processor())
        timer = cpu_timer(models, args.repeats)
    check(machine, models, flows)
    rows = itertools.chain(
        measure_stores(machine, timer, flows), measure(machine, timer, flows)
    )
    write((row | where for row in rows), args.json)


if __name__ == "__main__":
    main()
