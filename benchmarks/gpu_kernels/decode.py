"""Attention of one new token per sequence over its pages."""

import functools

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.graph import Graph, Module, TensorValue

from benchmarks.gpu_kernels.attention import (
    QUERIES_TYPE,
    add_attention,
    check_attention,
    queries_for,
)
from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.layout import (
    DTYPE,
    GPU,
    HEAD_DIM,
    MAX_PAGE_SIZE,
    NUM_KV_HEADS,
    NUM_LAYERS,
    PAGE_SIZES,
    ROW_BYTES,
    Lengths,
    Step,
)
from kvcache import ops
from kvcache.graphs.ragged import row_offsets_type
from kvcache.ops import CacheInputs, CacheInputTypes
from kvcache.quantization import Granularity, Quantization


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

CODES = "64x8192"
"""The batch that is measured with keys and values of 8 bits, too."""


def code_types(page_size: int, granularity: Granularity) -> CacheInputTypes:
    """Returns the types of a cache of float8_e4m3fn codes."""
    return CacheInputTypes(
        dtype=DType.float8_e4m3fn,
        num_layers=NUM_LAYERS,
        page_size=page_size,
        num_kv_heads=NUM_KV_HEADS,
        head_dim=HEAD_DIM,
        device=GPU,
        quantization=Quantization(granularity=granularity),
        compute_dtype=DTYPE,
    )


def add_graphs(module: Module) -> None:
    """Adds ours for each page size, MAX's, and ours over codes."""
    add_attention(module, PAGE_SIZES)
    for granularity in (Granularity.TOKEN, Granularity.HEAD):
        for page_size in PAGE_SIZES:
            _add_codes(module, page_size, granularity)


def _add_codes(
    module: Module, page_size: int, granularity: Granularity
) -> None:
    types = code_types(page_size, granularity)
    with Graph(
        f"attention_fp8_{granularity.value}_{page_size}",
        input_types=[*types, QUERIES_TYPE, row_offsets_type(GPU)],
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        *cache, queries, offsets = graph.inputs
        graph.output(
            *(
                _attend(CacheInputs.of(cache), queries, offsets, layer=layer)
                for layer in range(NUM_LAYERS)
            )
        )


def _attend(
    cache: CacheInputs, queries: object, offsets: object, *, layer: int
) -> TensorValue:
    return ops.attention(
        cache,
        TensorValue(queries),
        TensorValue(offsets),
        layer=layer,
        scale=HEAD_DIM**-0.5,
    )


def measure(bench: Bench) -> None:
    """Checks and times every batch."""
    for page_size in PAGE_SIZES:
        check_attention(bench, MIXED, page_size)
        for case, lengths in STEPS.items():
            _measure(bench, case, lengths, page_size)
        for granularity in (Granularity.TOKEN, Granularity.HEAD):
            _measure_codes(bench, page_size, granularity)


def _measure(bench: Bench, case: str, lengths: Lengths, page_size: int) -> None:
    device = bench.device
    step = Step.of(lengths, page_size, device, reads_all=True)
    queries, pool = queries_for(step, device), step.empty_pool(device)
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


def _measure_codes(
    bench: Bench, page_size: int, granularity: Granularity
) -> None:
    device = bench.device
    step = Step.of(STEPS[CODES], page_size, device, reads_all=True)
    kinds = [*code_types(page_size, granularity)]
    pages = step.pages.num_pages + 1
    pool, scales = (
        Buffer.zeros(
            [pages, *(int(dim) for dim in kind.shape[1:])], kind.dtype, device
        )
        for kind in (kinds[0], kinds[4])
    )
    us = bench.graph_us(
        f"attention_fp8_{granularity.value}_{page_size}",
        *(pool, *step.tables, scales, queries_for(step, device), step.offsets),
        calls=NUM_LAYERS,
    )
    per_token = 2 * NUM_KV_HEADS * 4 if granularity == Granularity.TOKEN else 0
    bench.note(
        f"decode fp8 {CODES}",
        f"kvcache {granularity.value} scales",
        us,
        num_bytes=(ROW_BYTES // 2 + per_token)
        * int(step.batch.context_lengths.sum()),
        page_size=page_size,
        ceiling="read",
    )
