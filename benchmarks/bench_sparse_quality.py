"""What SmolLM2 loses where decode steps attend to some blocks only.

    python -m benchmarks.bench_sparse_quality --json FILE

Perplexity: a chapter of Python's language reference, every token behind the
first ones decoded with the truth before it, for several shares of the blocks;
a share of 1 attends to everything. Needles: whether the answer to a question
about a fact in a long text is found, the question and answer decoded. Both run
through the cache, its graphs and its flows as they are, in float32, on a GPU if
there is one, else on the CPU (an hour). For a machine without a compiler,
`--prepare FOLDER` compiles for a Hopper GPU, and `--load FOLDER` runs there.
"""

import argparse
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from max.driver import CPU, Accelerator, accelerator_count

from benchmarks.gpu_tests import gpu_name
from benchmarks.rows import Row, context, processor, write
from benchmarks.sparse import quality_graphs
from benchmarks.sparse.needles import Needle
from benchmarks.sparse.quality_graphs import Choice, Prepared, Texts
from benchmarks.sparse.teacher import Teacher
from kvcache.model import LlamaModel, download_smollm2, load_model
from kvcache.spec import pages_for

CHOSEN = (
    *(("block_sparse", 16), ("gqa_block_sparse", 16), ("quest", 16)),
    *(("window", 16), ("quest", 64)),
)
"""Flows and their block sizes."""
RATIOS = (1.0, 0.5, 0.25, 0.125, 0.0625)
START, LENGTH = 1024, 4096
LENGTHS = (512, 1024, 2048, 4096)
NEEDLES = 20


def perplexity(teacher: Teacher, book: list[int]) -> Iterator[Row]:
    """Yields a row for each ratio."""
    logs, _ = teacher.log_probabilities(
        [(book, ratio) for ratio in RATIOS], start=START
    )
    losses = -logs.mean(axis=1)
    for ratio, loss in zip(RATIOS, losses.tolist(), strict=True):
        yield {
            "case": f"perplexity {START}..{len(book)}",
            "ratio": ratio,
            "loss": round(loss, 4),
            "perplexity": round(float(np.exp(loss)), 3),
            "over_dense_pct": round(100 * np.expm1(loss - losses[0]), 2),
        }


def find(
    teacher: Teacher, hidden: Sequence[Needle], length: int
) -> Iterator[Row]:
    """Yields a row for each ratio."""
    found = np.zeros(len(RATIOS))
    likely = np.zeros(len(RATIOS))
    for needle in hidden:
        logs, hits = teacher.log_probabilities(
            [(needle.tokens, ratio) for ratio in RATIOS], start=needle.question
        )
        first = needle.answer - needle.question - 1
        found += hits[:, first:].all(axis=1)
        likely += logs[:, first:].sum(axis=1)
    for index, ratio in enumerate(RATIOS):
        yield {
            "case": f"needles {length}",
            "ratio": ratio,
            "needles": len(hidden),
            "found": int(found[index]),
            "log_probability": round(float(likely[index] / len(hidden)), 3),
        }


def measure(
    model: LlamaModel, prepared: Prepared, chosen: Sequence[Choice]
) -> Iterator[Row]:
    """Yields the rows of every flow and block size."""
    texts = prepared.texts
    longest = max(len(texts.book), *texts.needles) + 64
    pages = (len(RATIOS) + 1) * pages_for(longest, quality_graphs.PAGE_SIZE)
    device = Accelerator() if accelerator_count() else CPU()
    for choice in chosen:
        graph = prepared.models[choice]
        teacher = Teacher(
            model.config,
            graph,
            quality_graphs.params_of(model.config, prepared.summaries[choice]),
            device=device,
            num_pages=pages,
            rows=len(RATIOS),
        )
        flow, size = choice
        note = {"flow": flow, "block_size": size}
        for row in perplexity(teacher, texts.book):
            yield note | row
        for length, hidden in texts.needles.items():
            for row in find(teacher, hidden, length):
                yield note | row


def texts_of(model: LlamaModel) -> Texts:
    """Returns what is read, as the model's tokens."""
    assert model.tokenizer is not None, "SmolLM2 has one"
    return Texts.of(
        model.tokenizer, length=LENGTH, lengths=LENGTHS, count=NEEDLES
    )


def main() -> None:
    """Compiles, or measures and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prepare", type=Path, metavar="FOLDER")
    parser.add_argument("--load", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--only", default="", metavar="FLOW_SIZE")
    args = parser.parse_args()
    model = load_model(download_smollm2())
    chosen = [c for c in CHOSEN if args.only in f"{c[0]}_{c[1]}"]
    if args.prepare is not None:
        from tools.compile_for_gpu import virtual_hopper

        device = virtual_hopper()
        quality_graphs.save(
            args.prepare, model, chosen, texts_of(model), device
        )
        # MAX 26.7 aborts where a session lives until Python's end.
        gc.collect()
        return
    has_gpu = accelerator_count() > 0
    if args.load is not None:
        prepared = quality_graphs.load(args.load, model, Accelerator())
    else:
        place = Accelerator() if has_gpu else CPU()
        prepared = quality_graphs.make(model, chosen, texts_of(model), place)
    where = context(gpu_name() if has_gpu else processor())
    rows = measure(model, prepared, chosen)
    write((row | where for row in rows), args.json)


if __name__ == "__main__":
    main()
