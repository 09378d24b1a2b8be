"""Choosing blocks by given scores, and attention to the chosen ones only."""

import functools

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.graph import Module, TensorType, TensorValue
from tests.kernels.buffers import to_array, to_buffer

from benchmarks.gpu_kernels.attention import (
    QUERIES_TYPE,
    SCALE,
    TOLERANCE,
    attend,
    queries_for,
)
from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.decode import MIXED, equal
from benchmarks.gpu_kernels.graphs import add_ours
from benchmarks.gpu_kernels.layout import (
    GPU,
    NUM_KV_HEADS,
    NUM_LAYERS,
    ROW_BYTES,
    Lengths,
    Step,
    cache_types,
    drawn,
    page_shape,
)
from kvcache import ops, reference_sparse
from kvcache.ops import CacheInputs, ChosenBlocks

PAGE_SIZE = 128
BLOCK_SIZE = 64
PER_PAGE = PAGE_SIZE // BLOCK_SIZE
RATIOS = (1 / 16, 1 / 8, 1 / 4)

STEPS: dict[str, Lengths] = {
    f"{batch_size}x{context}": equal(batch_size, context)
    for batch_size, context in (
        *((1, 32_768), (1, 131_072), (8, 8192), (8, 32_768)),
        *((64, 2048), (64, 8192), (24, 32_768)),
    )
}
"""The batches that are attended to."""

CHOICES: dict[str, Lengths] = {
    "64 rows of 512": equal(8, 512 * BLOCK_SIZE),
    "512 rows of 512": equal(64, 512 * BLOCK_SIZE),
    "8 rows of 2048": equal(1, 2048 * BLOCK_SIZE),
    "8 rows of 8192": equal(1, 8192 * BLOCK_SIZE),
}
"""The batches that are chosen for only."""


def per_block(dtype: DType) -> TensorType:
    """Returns the type of a number of each block."""
    return TensorType(dtype, ["batch_size", NUM_KV_HEADS, "num_blocks"], GPU)


def per_sequence(dtype: DType) -> TensorType:
    """Returns the type of a number of each sequence."""
    return TensorType(dtype, ["batch_size"], GPU)


SCORES_TYPES = [per_block(DType.float32)] * NUM_LAYERS
"""Each layer's own, so that no layer's choice is that of another."""


def add_graphs(module: Module) -> None:
    """Adds the choice, the attention, both, and the dense attention."""
    add = functools.partial(
        add_ours, module, cache_types=cache_types(PAGE_SIZE), keeps_all=True
    )
    ratios = per_sequence(DType.float32)
    add("choose", types=[*SCORES_TYPES, ratios], op=_choose_only)
    add("dense", types=[QUERIES_TYPE], op=attend)
    chosen = [per_block(DType.uint32), per_sequence(DType.uint32)]
    add("sparse", types=[QUERIES_TYPE, *chosen], op=_attend)
    types = [QUERIES_TYPE, *SCORES_TYPES, ratios]
    add("both", types=types, op=_both)


def measure(bench: Bench) -> None:
    """Checks and times every batch."""
    _check(bench)
    for case, lengths in CHOICES.items():
        _measure_choice(bench, case, lengths)
    for case, lengths in STEPS.items():
        _measure(bench, case, lengths)


def _measure_choice(bench: Bench, case: str, lengths: Lengths) -> None:
    device = bench.device
    step = Step.of(lengths, PAGE_SIZE, device, reads_all=True)
    pool = Buffer.zeros((1, *page_shape(PAGE_SIZE)), DType.bfloat16, device)
    scores = scores_for(bench, step)
    num_bytes = scores[0].num_elements * 4
    for ratio in (1 / 8, 1):
        inputs = (*scores, ratios_for(bench, step, ratio), step.offsets)
        us = bench.graph_us(
            "choose", pool, *step.tables, *inputs, calls=NUM_LAYERS
        )
        bench.note(
            f"choose {ratio} of {case}",
            "kvcache",
            us,
            num_bytes=num_bytes,
            page_size=PAGE_SIZE,
            ceiling="read",
        )


def _measure(bench: Bench, case: str, lengths: Lengths) -> None:
    device = bench.device
    step = Step.of(lengths, PAGE_SIZE, device, reads_all=True)
    pool, queries = step.drawn_pool(device), queries_for(step, device)
    cache, scores = (pool, *step.tables), scores_for(bench, step)
    note = functools.partial(bench.note, page_size=PAGE_SIZE, ceiling="read")
    us = bench.graph_us(
        "dense", *cache, queries, step.offsets, calls=NUM_LAYERS
    )
    tokens = int(step.batch.context_lengths.sum())
    note(f"dense {case}", "kvcache", us, num_bytes=ROW_BYTES * tokens)
    for ratio in RATIOS:
        ratios = ratios_for(bench, step, ratio)
        outputs = bench.models["choose"].execute(
            *cache, *scores, ratios, step.offsets
        )
        ids, sparse = outputs[0], sparse_lengths(step, ratio)
        num_bytes = ROW_BYTES * int(sparse.sum())
        chosen = (ids, to_buffer(sparse, device))
        us = bench.graph_us(
            *("sparse", *cache, queries, *chosen, step.offsets),
            calls=NUM_LAYERS,
        )
        note(f"sparse {case} {ratio}", "attend", us, num_bytes=num_bytes)
        us = bench.graph_us(
            *("both", *cache, queries, *scores, ratios, step.offsets),
            calls=NUM_LAYERS,
        )
        note(f"sparse {case} {ratio}", "choose_attend", us, num_bytes=num_bytes)


def scores_for(bench: Bench, step: Step) -> list[Buffer]:
    """Draws each layer's scores."""
    rng = np.random.default_rng(3)
    batch_size, columns = step.pages.lookup_table.shape
    shape = (batch_size, NUM_KV_HEADS, columns * PER_PAGE)
    return [
        to_buffer(rng.standard_normal(shape, np.float32), bench.device)
        for _ in range(NUM_LAYERS)
    ]


def ratios_for(bench: Bench, step: Step, ratio: float) -> Buffer:
    """Returns the same ratio for each sequence."""
    ratios = np.full(len(step.batch.lengths), ratio, np.float32)
    return to_buffer(ratios, bench.device)


def sparse_lengths(step: Step, ratio: float) -> reference_sparse.Indices:
    """Returns the tokens that each sequence attends to."""
    lengths = [
        (
            reference_sparse.num_chosen(
                cached // BLOCK_SIZE + 1,
                ratio,
                reserved_first=1,
                reserved_last=1,
                top_k=0,
            )
            - 1
        )
        * BLOCK_SIZE
        + cached % BLOCK_SIZE
        + 1
        for cached in step.batch.cache_lengths.tolist()
    ]
    return np.array(lengths, np.uint32)


def _check(bench: Bench) -> None:
    """Holds the first and the last layer against the reference.

    Raises:
        AssertionError: If an output is another one.
    """
    device, ratio = bench.device, 0.3
    step = Step.of(MIXED, PAGE_SIZE, device, reads_all=True)
    queries, scores = queries_for(step, device), scores_for(bench, step)
    pool = drawn(device, *step.empty_pool(device).shape)
    ratios = ratios_for(bench, step, ratio)
    outputs = bench.models["both"].execute(
        *(pool, *step.tables, queries, *scores, ratios, step.offsets)
    )
    for layer in (0, NUM_LAYERS - 1):
        batch, table = step.batch, step.pages.lookup_table
        tables = (batch.input_row_offsets, batch.cache_lengths, table)
        chosen, lengths = reference_sparse.choose_blocks(
            *(to_array(scores[layer]), *tables, to_array(ratios)),
            page_size=PAGE_SIZE,
            block_size=BLOCK_SIZE,
            reserved_first=1,
            reserved_last=1,
            top_k=0,
        )
        np.testing.assert_array_equal(lengths, sparse_lengths(step, ratio))
        expected = reference_sparse.sparse_attention(
            *(to_array(pool), to_array(queries), *tables, chosen, lengths),
            layer=layer,
            scale=SCALE,
            block_size=BLOCK_SIZE,
        )
        actual = to_array(outputs[layer])
        np.testing.assert_allclose(actual, expected, **TOLERANCE)


def _choice(
    cache: CacheInputs,
    scores: TensorValue,
    ratios: TensorValue,
    offsets: TensorValue,
) -> ChosenBlocks:
    return ops.choose_blocks(
        cache, _fitted(cache, scores), offsets, ratios, block_size=BLOCK_SIZE
    )


def _choose_only(
    cache: CacheInputs, *inputs: TensorValue, layer: int
) -> TensorValue:
    *scores, ratios, offsets = inputs
    return _choice(cache, scores[layer], ratios, offsets).block_ids


def _attend(
    cache: CacheInputs, *inputs: TensorValue, layer: int
) -> TensorValue:
    queries, ids, lengths, offsets = inputs
    chosen = ChosenBlocks(_fitted(cache, ids), lengths)
    return _sparse(cache, queries, offsets, chosen, layer=layer)


def _both(cache: CacheInputs, *inputs: TensorValue, layer: int) -> TensorValue:
    queries, *scores, ratios, offsets = inputs
    chosen = _choice(cache, scores[layer], ratios, offsets)
    return _sparse(cache, queries, offsets, chosen, layer=layer)


def _sparse(
    cache: CacheInputs,
    queries: TensorValue,
    offsets: TensorValue,
    chosen: ChosenBlocks,
    *,
    layer: int,
) -> TensorValue:
    return ops.sparse_attention(
        *(cache, queries, offsets, chosen),
        layer=layer,
        scale=SCALE,
        block_size=BLOCK_SIZE,
    )


def _fitted(cache: CacheInputs, value: TensorValue) -> TensorValue:
    """Says that there are as many blocks as the lookup table's pages have."""
    width = cache.lookup_table.shape[1] * PER_PAGE
    return value.rebind([*value.shape[:2], width])
