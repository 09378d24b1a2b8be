"""Attention of one new token per sequence over its pages."""

import functools

import numpy as np
from max.graph import Module

from benchmarks.gpu_kernels.attention import (
    add_attention,
    check_attention,
    queries_for,
)
from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.decode_codes import add_codes, measure_codes
from benchmarks.gpu_kernels.layout import (
    MAX_PAGE_SIZE,
    NUM_LAYERS,
    PAGE_SIZES,
    ROW_BYTES,
    Lengths,
    Step,
)


def equal(batch_size: int, context: int) -> Lengths:
    """Returns a step of sequences that are equally long."""
    return [(context - 1, 1)] * batch_size


def ragged() -> Lengths:
    """Returns 64 sequences of 256 to 16,384 tokens, each ratio as often."""
    contexts = np.geomspace(256, 16_384, 64).astype(int)
    return [
        (int(context) - 1, 1)
        for context in np.random.default_rng(5).permutation(contexts)
    ]


STEPS: dict[str, Lengths] = {
    **{
        f"{batch_size}x{context}": equal(batch_size, context)
        for batch_size, context in (
            *((1, 32_768), (8, 8192), (64, 2048), (64, 8192)),
            *((256, 1024), (256, 4096), (24, 8192)),
        )
    },
    "ragged64": ragged(),
    "skew8": [*equal(3, 1024), (65_535, 1), *equal(4, 1024)],
}
"""The batches."""

MIXED: Lengths = [(0, 1), (15, 1), (16, 1), (130, 1), (700, 1), (2000, 1)]
"""What is compared before anything is timed."""


def add_graphs(module: Module) -> None:
    """Adds ours for each page size, MAX's, and ours over codes."""
    add_attention(module, PAGE_SIZES)
    add_codes(module)


def measure(bench: Bench) -> None:
    """Checks and times every batch."""
    for page_size in PAGE_SIZES:
        check_attention(bench, MIXED, page_size)
        for case, lengths in STEPS.items():
            _measure(bench, case, lengths, page_size)
        measure_codes(bench, MIXED, page_size)


def _measure(bench: Bench, case: str, lengths: Lengths, page_size: int) -> None:
    device = bench.device
    step = Step.of(lengths, page_size, device, reads_all=True)
    queries, pool = queries_for(step, device), step.drawn_pool(device)
    note = functools.partial(
        bench.note,
        f"decode {case}",
        num_bytes=ROW_BYTES * int(step.batch.context_lengths.sum()),
        page_size=page_size,
        ceiling="read",
    )
    inputs = (pool, *step.tables, queries, step.offsets)
    name = f"attention_{page_size}"
    us = bench.graph_us(name, *inputs, calls=NUM_LAYERS)
    note(who="kvcache", us=us)
    if page_size == MAX_PAGE_SIZE:
        theirs = (queries, step.offsets, pool, *step.for_max(device))
        us = bench.graph_us("attention_max", *theirs, calls=NUM_LAYERS)
        note(who="max", us=us)
