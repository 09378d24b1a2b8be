"""Rotary embedding fused with the store."""

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType
from max.graph import Module, TensorType, TensorValue
from max.nn.kernels import rope_split_store_ragged
from tests.kernels.buffers import to_array, to_buffer

from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.graphs import (
    MAX_PARAMS,
    MaxCache,
    add_ours,
    add_theirs,
)
from benchmarks.gpu_kernels.layout import (
    DTYPE,
    GPU,
    HEAD_DIM,
    MAX_PAGE_SIZE,
    NUM_HEADS,
    NUM_LAYERS,
    NUM_Q_HEADS,
    PAGE_SIZES,
    ROW_BYTES,
    Lengths,
    Step,
    cache_types,
    decode,
    drawn,
    prefill,
)
from benchmarks.gpu_kernels.store import MIXED
from kvcache import ops, reference

STEPS: dict[str, Lengths] = {
    **{f"{batch}x1": decode(batch) for batch in (1, 8, 64, 256)},
    "64x1024": prefill(64, 1024),
}
"""The batches, by their sequences and the new tokens of each."""

WIDTH = NUM_HEADS * HEAD_DIM
QUERY_BYTES = NUM_Q_HEADS * HEAD_DIM * DTYPE.size_in_bytes
NUM_POSITIONS = 2048
TOLERANCE = {"rtol": 2.0**-7, "atol": 1e-5}
"""A result is rounded once to bfloat16; MAX rounds on the way too."""


def add_graphs(module: Module) -> None:
    """Adds ours for each page size, and MAX's."""
    types = [
        TensorType(DTYPE, ["total_tokens", WIDTH], GPU),
        TensorType(DType.float32, [NUM_POSITIONS, HEAD_DIM], GPU),
    ]
    for page_size in PAGE_SIZES:
        name = f"rope_store_{page_size}"
        add_ours(
            module, name, cache_types(page_size), types=types, op=ops.rope_store
        )
    add_theirs(module, "rope_store_max", types=types, op=_max_rope_store)


def _max_rope_store(
    cache: MaxCache, qkv: TensorValue, freqs: TensorValue, *rest: TensorValue
) -> TensorValue:
    offsets, layer = rest
    return rope_split_store_ragged(
        *(MAX_PARAMS, qkv, offsets, freqs, cache, layer, NUM_Q_HEADS),
        interleaved=False,
    )


def measure(bench: Bench) -> None:
    """Checks ours, then times ours and MAX's."""
    for page_size in PAGE_SIZES:
        _check(bench, page_size)
        for case, lengths in STEPS.items():
            _measure(bench, case, lengths, page_size)


def _angles() -> np.ndarray:
    """Returns cosines and sines of every position."""
    speeds = 5e5 ** -np.linspace(0, 1, HEAD_DIM // 2, endpoint=False)
    angles = np.outer(np.arange(NUM_POSITIONS), speeds)
    both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return both.astype(np.float32)


def rope_inputs(step: Step, device: Device) -> tuple[Buffer, Buffer]:
    """Draws the rows of a batch, and returns the angles of all positions."""
    qkv = drawn(device, step.batch.num_rows, WIDTH)
    return qkv, to_buffer(_angles(), device)


def _check(bench: Bench, page_size: int) -> None:
    """Holds the queries and the last layer against the reference."""
    device = bench.device
    step = Step.of(MIXED, page_size, device)
    qkv, freqs = rope_inputs(step, device)
    pool = step.empty_pool(device)
    (queries,) = bench.models[f"rope_store_{page_size}"].execute(
        pool, *step.tables, qkv, freqs, step.offsets
    )
    actual = to_array(pool)
    expected = np.zeros_like(actual)
    expected_queries = reference.rope_store(
        expected,
        to_array(qkv),
        _angles(),
        step.batch.input_row_offsets,
        step.batch.cache_lengths,
        step.pages.lookup_table,
        layer=NUM_LAYERS - 1,
        interleaved=False,
    )
    np.testing.assert_allclose(to_array(queries), expected_queries, **TOLERANCE)
    np.testing.assert_allclose(
        actual[:, :, -1], expected[:, :, -1], **TOLERANCE
    )


def _measure(bench: Bench, case: str, lengths: Lengths, page_size: int) -> None:
    device = bench.device
    step = Step.of(lengths, page_size, device)
    qkv, freqs = rope_inputs(step, device)
    pool = step.empty_pool(device)

    def note(who: str, us: float) -> None:
        bench.note(
            f"rope_store {case}",
            who,
            us,
            num_bytes=2 * (QUERY_BYTES + ROW_BYTES) * step.batch.num_rows,
            page_size=page_size,
        )

    inputs = (pool, *step.tables, qkv, freqs, step.offsets)
    name = f"rope_store_{page_size}"
    note("kvcache", bench.graph_us(name, *inputs, calls=NUM_LAYERS))
    if page_size == MAX_PAGE_SIZE:
        theirs = (qkv, freqs, step.offsets, pool, *step.for_max(device))
        us = bench.graph_us("rope_store_max", *theirs, calls=NUM_LAYERS)
        note("max", us)
