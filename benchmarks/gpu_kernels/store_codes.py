"""The store of keys and values as codes of 8 bits, rotated first or not."""

import functools

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.graph import Module, TensorType
from tests.kernels.buffers import to_array, to_codes

from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.decode_codes import CODES, code_types
from benchmarks.gpu_kernels.graphs import add_ours
from benchmarks.gpu_kernels.layout import (
    DTYPE,
    GPU,
    HEAD_DIM,
    MAX_PAGE_SIZE,
    NUM_KV_HEADS,
    NUM_LAYERS,
    ROW_BYTES,
    Lengths,
    Step,
    drawn,
)
from benchmarks.gpu_kernels.rope_store import (
    NUM_POSITIONS,
    QUERY_BYTES,
    WIDTH,
    rope_inputs,
)
from benchmarks.gpu_kernels.store import MIXED, STEPS
from kvcache import ops
from kvcache.quantization import Granularity
from kvcache.reference_quantized import store_quantized

TYPES = code_types(MAX_PAGE_SIZE, Granularity.TOKEN)
SCALE_BYTES = 2 * NUM_KV_HEADS * 4
"""A token's scales of one layer."""


def add_graphs(module: Module) -> None:
    """Adds the store, and the store behind a rotation."""
    rows = TensorType(DTYPE, ["total_tokens", NUM_KV_HEADS, HEAD_DIM], GPU)
    qkv = TensorType(DTYPE, ["total_tokens", WIDTH], GPU)
    freqs = TensorType(DType.float32, [NUM_POSITIONS, HEAD_DIM], GPU)
    for name, types, op in (
        ("store_fp8", [rows, rows], ops.store),
        ("rope_store_fp8", [qkv, freqs], ops.rope_store),
    ):
        add_ours(module, name, TYPES, types=types, op=op)


def measure(bench: Bench) -> None:
    """Checks the store, then times both."""
    _check(bench)
    for case, lengths in STEPS.items():
        _measure(bench, case, lengths)


def _empty_pools(bench: Bench, step: Step) -> tuple[Buffer, Buffer]:
    kinds, pages = [*TYPES], step.pages.num_pages + 1
    codes, scales = (
        Buffer.zeros(
            [pages, *(int(dim) for dim in kinds[place].shape[1:])],
            kinds[place].dtype,
            bench.device,
        )
        for place in (0, -1)
    )
    return codes, scales


def _rows(bench: Bench, step: Step) -> list[Buffer]:
    shape = step.batch.num_rows, NUM_KV_HEADS, HEAD_DIM
    return [drawn(bench.device, *shape) for _ in "kv"]


def _check(bench: Bench) -> None:
    """Holds the last layer's codes and scales against the reference."""
    step = Step.of(MIXED, MAX_PAGE_SIZE, bench.device)
    keys, values = _rows(bench, step)
    codes, scales = _empty_pools(bench, step)
    expected, expected_scales = (
        np.zeros_like(array) for array in (to_codes(codes), to_array(scales))
    )
    inputs = codes, *step.tables, scales, keys, values, step.offsets
    bench.models["store_fp8"].execute(*inputs)
    store_quantized(
        expected,
        expected_scales,
        to_array(keys),
        to_array(values),
        step.batch.input_row_offsets,
        step.batch.cache_lengths,
        step.pages.lookup_table,
        kv_dtype=CODES.name,
        layer=NUM_LAYERS - 1,
    )
    for actual, wanted in (
        (to_codes(codes), expected),
        (to_array(scales), expected_scales),
    ):
        np.testing.assert_array_equal(actual[:, :, -1], wanted[:, :, -1])


def _measure(bench: Bench, case: str, lengths: Lengths) -> None:
    device = bench.device
    step = Step.of(lengths, MAX_PAGE_SIZE, device)
    codes, scales = _empty_pools(bench, step)
    cache = codes, *step.tables, scales
    moved = ROW_BYTES + ROW_BYTES // 2 + SCALE_BYTES
    for name, rows, num_bytes in (
        ("store_fp8", _rows(bench, step), moved),
        ("rope_store_fp8", rope_inputs(step, device), moved + 2 * QUERY_BYTES),
    ):
        time = functools.partial(bench.graph_us, name, calls=NUM_LAYERS)
        bench.note(
            f"{name.replace('_fp8', '')} fp8 {case}",
            "kvcache token scales",
            time(*cache, *rows, step.offsets),
            num_bytes=num_bytes * step.batch.num_rows,
            page_size=MAX_PAGE_SIZE,
        )
