"""Causal attention of whole prompts over their pages."""

import numpy as np
from max.graph import Module, TensorValue

from benchmarks.gpu_kernels.attention import (
    QUERIES_TYPE,
    SCALE,
    add_attention,
    check_attention,
    queries_for,
)
from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.graphs import add_ours
from benchmarks.gpu_kernels.layout import (
    HEAD_DIM,
    MAX_PAGE_SIZE,
    NUM_LAYERS,
    NUM_Q_HEADS,
    PAGE_SIZES,
    Lengths,
    Step,
    cache_types,
    prefill,
)
from kvcache import ops
from kvcache.ops import CacheInputs

STEPS: dict[str, Lengths] = {
    "1x4096": prefill(1, 4096),
    "16x512": prefill(16, 512),
    "1x4096 after 4096": [(4096, 4096)],
    "1x512 after 32768": [(32_768, 512)],
    "1x16384": prefill(1, 16_384),
    "64x128": prefill(64, 128),
    "ragged8": [(0, new) for new in (37, 1500, 800, 12, 3000, 256, 64, 2100)],
}
"""The batches, by their sequences and the new tokens of each."""

MIXED: Lengths = [(0, 40), (133, 20), (383, 1), (0, 0), (256, 16)]
"""What is compared before anything is timed."""


def add_graphs(module: Module) -> None:
    """Adds ours, MAX's kernel over our views, and MAX's own op."""
    add_attention(module, PAGE_SIZES)
    add_ours(
        module,
        "attention_of_max",
        cache_types(MAX_PAGE_SIZE),
        types=[QUERIES_TYPE],
        op=_max_over_ours,
        keeps_all=True,
    )


def _max_over_ours(
    cache: CacheInputs,
    queries: TensorValue,
    offsets: TensorValue,
    *,
    layer: int,
) -> TensorValue:
    return ops.attention_max(cache, queries, offsets, layer=layer, scale=SCALE)


def measure(bench: Bench) -> None:
    """Checks and times the prompts."""
    for page_size in PAGE_SIZES:
        check_attention(bench, MIXED, page_size)
    for case, lengths in STEPS.items():
        for page_size in PAGE_SIZES:
            _measure(bench, case, lengths, page_size)


def _measure(bench: Bench, case: str, lengths: Lengths, page_size: int) -> None:
    device = bench.device
    step = Step.of(lengths, page_size, device, reads_all=True)
    queries, pool = queries_for(step, device), step.drawn_pool(device)
    ours = (pool, *step.tables, queries, step.offsets)
    sides = {"kvcache attention": (f"attention_{page_size}", ours)}
    if page_size == MAX_PAGE_SIZE:
        theirs = (queries, step.offsets, pool, *step.for_max(device))
        sides["kvcache attention_max"] = ("attention_of_max", ours)
        sides["max"] = ("attention_max", theirs)
    for who, us in bench.turns_us(sides, calls=NUM_LAYERS).items():
        bench.note_flops(
            f"prefill {case}",
            who=who,
            us=us,
            flops=flops(lengths),
            page_size=page_size,
        )


def flops(lengths: Lengths) -> int:
    """Returns the multiplications and additions of two products of pairs."""
    pairs = sum(
        int(np.arange(cached + 1, cached + new + 1).sum())
        for cached, new in lengths
    )
    return 4 * NUM_Q_HEADS * HEAD_DIM * pairs
