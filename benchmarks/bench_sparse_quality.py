"""What SmolLM2 loses where decode steps attend to some blocks only.

    python -m benchmarks.bench_sparse_quality --json FILE

Perplexity: a chapter of Python's language reference, every token behind the
first ones decoded with the truth before it, for several shares of the blocks;
a share of 1 attends to everything. Needles: whether the answer to a question
about a fact in a long text is found, the question and answer decoded. Both run
through the cache, its graphs and its flows as they are, on the CPU.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, context, processor, write
from benchmarks.sparse.needles import Needle, needles
from benchmarks.sparse.teacher import PAGE_SIZE, Teacher, compile_flows
from benchmarks.sparse.texts import BOOK, chapter
from kvcache.model import LlamaModel, Tokenizer, download_smollm2, load_model
from kvcache.spec import pages_for

CHOSEN = (
    *(("block_sparse", 16), ("gqa_block_sparse", 16), ("quest", 16)),
    *(("window", 16), ("quest", 64)),
)
"""Flows and their block sizes."""
RATIOS = (1.0, 0.5, 0.25, 0.125, 0.0625)
LENGTHS = (512, 1024, 2048, 4096)


def perplexity(
    model: LlamaModel,
    teacher: Teacher,
    tokenizer: Tokenizer,
    *,
    start: int,
    length: int,
) -> Iterator[Row]:
    """Yields a row for each ratio."""
    tokens = tokenizer.encode(chapter(BOOK))[:length]
    assert len(tokens) == length <= model.config.max_seq_len
    logs, _ = teacher.log_probabilities(
        [(tokens, ratio) for ratio in RATIOS], start=start
    )
    losses = -logs.mean(axis=1)
    for ratio, loss in zip(RATIOS, losses.tolist(), strict=True):
        yield {
            "case": f"perplexity {start}..{length}",
            "ratio": ratio,
            "loss": round(loss, 4),
            "perplexity": round(float(np.exp(loss)), 3),
            "over_dense": round(float(np.exp(loss - losses[0])) - 1, 4),
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


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yields the rows of every flow and block size."""
    model = load_model(download_smollm2())
    tokenizer = model.tokenizer
    assert tokenizer is not None, "SmolLM2 has one"
    chosen = [(flow, size) for flow, size in CHOSEN if args.only in flow]
    longest = max(args.length, *args.lengths) + 64
    pages = (len(RATIOS) + 1) * pages_for(longest, PAGE_SIZE)
    for (flow, size), compiled in compile_flows(model, chosen).items():
        teacher = Teacher(model, compiled, num_pages=pages, rows=len(RATIOS))
        note = {"flow": flow, "block_size": size}
        for row in perplexity(
            *(model, teacher, tokenizer), start=args.start, length=args.length
        ):
            yield note | row
        for length in args.lengths:
            hidden = list(needles(tokenizer, length, args.needles))
            for row in find(teacher, hidden, length):
                yield note | row


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--only", default="", metavar="FLOW")
    parser.add_argument("--start", type=int, default=1024)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--lengths", nargs="*", type=int, default=LENGTHS)
    parser.add_argument("--needles", type=int, default=10)
    args = parser.parse_args()
    where = context(processor())
    write((row | where for row in measure(args)), args.json)


if __name__ == "__main__":
    main()
