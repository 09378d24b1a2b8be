"""The graphs of attention, ours and MAX's, and that both are right."""

from collections.abc import Iterable

import numpy as np
from max.driver import Buffer, Device
from max.graph import Module, TensorType, TensorValue
from max.nn.attention import MHAMaskVariant
from max.nn.kernels import flash_attention_ragged
from tests.kernels.buffers import to_array

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
    NUM_LAYERS,
    NUM_Q_HEADS,
    Lengths,
    Step,
    cache_types,
    drawn,
)
from kvcache import ops, reference
from kvcache.ops import CacheInputs

SCALE = HEAD_DIM**-0.5
QUERIES_TYPE = TensorType(DTYPE, ["total_tokens", NUM_Q_HEADS, HEAD_DIM], GPU)
TOLERANCE = {"rtol": 2.0**-7, "atol": 0.004}
"""Of both: MAX rounds its weights to bfloat16."""


def add_attention(module: Module, page_sizes: Iterable[int]) -> None:
    """Adds our attention for each page size, and MAX's own."""
    for page_size in page_sizes:
        add_ours(
            module,
            f"attention_{page_size}",
            cache_types(page_size),
            types=[QUERIES_TYPE],
            op=attend,
            keeps_all=True,
        )
    add_theirs(
        module,
        "attention_max",
        types=[QUERIES_TYPE],
        op=_theirs,
        keeps_all=True,
    )


def queries_for(step: Step, device: Device) -> Buffer:
    """Draws the queries of a batch."""
    return drawn(device, step.batch.num_rows, NUM_Q_HEADS, HEAD_DIM)


def check_attention(bench: Bench, lengths: Lengths, page_size: int) -> None:
    """Holds each one's attention against the reference, every layer.

    Raises:
        AssertionError: If an output is another one.
    """
    device = bench.device
    step = Step.of(lengths, page_size, device, reads_all=True)
    queries = queries_for(step, device)
    pool = drawn(device, *step.empty_pool(device).shape)
    inputs = (pool, *step.tables, queries, step.offsets)
    outputs = {
        "kvcache": bench.models[f"attention_{page_size}"].execute(*inputs)
    }
    if page_size == MAX_PAGE_SIZE:
        outputs["max"] = bench.models["attention_max"].execute(
            queries, step.offsets, pool, *step.for_max(device)
        )
    for layer in range(0, NUM_LAYERS, NUM_LAYERS - 1):
        expected = reference.attention(
            to_array(pool),
            to_array(queries),
            step.batch.input_row_offsets,
            step.batch.cache_lengths,
            step.pages.lookup_table,
            layer=layer,
            scale=SCALE,
        )
        for who, layers in outputs.items():
            np.testing.assert_allclose(
                to_array(layers[layer]), expected, err_msg=who, **TOLERANCE
            )


def attend(
    cache: CacheInputs,
    queries: TensorValue,
    offsets: TensorValue,
    *,
    layer: int,
) -> TensorValue:
    """Adds our attention of one layer."""
    return ops.attention(cache, queries, offsets, layer=layer, scale=SCALE)


def _theirs(
    cache: MaxCache,
    queries: TensorValue,
    offsets: TensorValue,
    layer: TensorValue,
) -> TensorValue:
    return flash_attention_ragged(
        *(MAX_PARAMS, queries, offsets, cache, layer),
        mask_variant=MHAMaskVariant.CAUSAL_MASK,
        scale=SCALE,
    )
