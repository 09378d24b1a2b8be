"""Attention of one new token per sequence over keys and values of 8 bits."""

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType
from max.graph import Module
from tests.kernels.buffers import to_array, to_codes

from benchmarks.gpu_kernels.attention import (
    QUERIES_TYPE,
    SCALE,
    TOLERANCE,
    attend,
    queries_for,
)
from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.graphs import add_ours
from benchmarks.gpu_kernels.layout import (
    DTYPE,
    GPU,
    HEAD_DIM,
    NUM_KV_HEADS,
    NUM_LAYERS,
    PAGE_SIZES,
    ROW_BYTES,
    Lengths,
    Step,
    repeated,
)
from kvcache import reference
from kvcache.cache_types import CacheInputTypes
from kvcache.quantization import Granularity, Quantization
from kvcache.reference_quantized import dequantized

CASE = "64x8192"
LENGTHS: Lengths = [(8191, 1)] * 64
CODES = DType.float8_e4m3fn
GRANULARITIES = (Granularity.TOKEN, Granularity.HEAD)


def code_types(page_size: int, granularity: Granularity) -> CacheInputTypes:
    """Returns the types of a cache of codes."""
    return CacheInputTypes(
        dtype=CODES,
        num_layers=NUM_LAYERS,
        page_size=page_size,
        num_kv_heads=NUM_KV_HEADS,
        head_dim=HEAD_DIM,
        device=GPU,
        quantization=Quantization(granularity=granularity),
        compute_dtype=DTYPE,
    )


def add_codes(module: Module) -> None:
    """Adds our attention for each page size and granularity."""
    for granularity in GRANULARITIES:
        for page_size in PAGE_SIZES:
            add_ours(
                module,
                _name(page_size, granularity),
                code_types(page_size, granularity),
                types=[QUERIES_TYPE],
                op=attend,
                keeps_all=True,
            )


def measure_codes(bench: Bench, mixed: Lengths, page_size: int) -> None:
    """Checks a mixed batch and times a large one.

    Args:
        bench: The compiled graphs.
        mixed: The lengths of what is compared.
        page_size: Tokens per page.
    """
    for granularity in GRANULARITIES:
        _check(bench, mixed, page_size, granularity)
        _measure(bench, page_size, granularity)


def _name(page_size: int, granularity: Granularity) -> str:
    return f"attention_fp8_{granularity.value}_{page_size}"


def _drawn_pools(
    types: CacheInputTypes, num_pages: int, device: Device
) -> tuple[Buffer, Buffer]:
    """Draws codes below 2 and their scales; all pages are alike."""
    rng = np.random.default_rng(0)
    kinds = [*types]
    shape, scales_shape = (
        [int(dim) for dim in kinds[place].shape[1:]] for place in (0, -1)
    )
    codes = rng.integers(0, 256, shape, np.uint8) & 0xBF
    scales = rng.uniform(0.5, 1.5, scales_shape).astype(np.float32)
    page = Buffer.from_numpy(codes).view(CODES).to(device)
    page_scales = Buffer.from_numpy(scales).to(device)
    return repeated(page, num_pages), repeated(page_scales, num_pages)


def _check(
    bench: Bench, mixed: Lengths, page_size: int, granularity: Granularity
) -> None:
    device, types = bench.device, code_types(page_size, granularity)
    step = Step.of(mixed, page_size, device, reads_all=True)
    queries = queries_for(step, device)
    pool, scales = _drawn_pools(types, step.pages.num_pages + 1, device)
    layers = bench.models[_name(page_size, granularity)].execute(
        *(pool, *step.tables, scales, queries, step.offsets)
    )
    meant = dequantized(to_codes(pool), to_array(scales), CODES.name)
    for layer in range(0, NUM_LAYERS, NUM_LAYERS - 1):
        expected = reference.attention(
            meant,
            to_array(queries),
            step.batch.input_row_offsets,
            step.batch.cache_lengths,
            step.pages.lookup_table,
            layer=layer,
            scale=SCALE,
        )
        actual = to_array(layers[layer])
        np.testing.assert_allclose(actual, expected, **TOLERANCE)


def _measure(bench: Bench, page_size: int, granularity: Granularity) -> None:
    device, types = bench.device, code_types(page_size, granularity)
    step = Step.of(LENGTHS, page_size, device, reads_all=True)
    pool, scales = _drawn_pools(types, step.pages.num_pages + 1, device)
    us = bench.graph_us(
        _name(page_size, granularity),
        *(pool, *step.tables, scales, queries_for(step, device), step.offsets),
        calls=NUM_LAYERS,
    )
    per_token = 2 * NUM_KV_HEADS * 4 if granularity == Granularity.TOKEN else 0
    bench.note(
        f"decode fp8 {CASE}",
        f"kvcache {granularity.value} scales",
        us,
        num_bytes=(ROW_BYTES // 2 + per_token)
        * int(step.batch.context_lengths.sum()),
        page_size=page_size,
        ceiling="read",
    )
