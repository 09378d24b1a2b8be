"""Kernels on pages of quantised latents against what they mean."""

import numpy as np

from kvcache import reference
from kvcache import reference_quantized as quantized

from .batch import Batch
from .buffers import rounded
from .checks import filled_pool
from .quantized import (
    QuantizedKernels,
    drawn_rows,
    kept,
    poisoned_pool,
    quantized_pool,
)
from .quantized_checks import assert_equal, check_attention


def check_every_op(kernels: QuantizedKernels, batch: Batch) -> None:
    """Checks what depends on a batch, with all rules."""
    check_store(kernels, batch)
    check_gather(kernels, batch)
    for rules in kernels.configuration.rules:
        check_attention(kernels, batch, rules)


def check_store(kernels: QuantizedKernels, batch: Batch) -> None:
    configuration, rng = kernels.configuration, batch.rng()
    pages = batch.written()
    latents = drawn_rows(
        rng, configuration, batch.num_rows, configuration.head_dim
    )
    expected = poisoned_pool(configuration, batch, pages.num_pages)
    before = expected.copy()
    quantized.store_latents_quantized(
        expected.codes,
        expected.scales,
        latents,
        batch.input_row_offsets,
        batch.cache_lengths,
        pages.lookup_table,
        kv_dtype=kept(configuration).dtype,
        layer=configuration.layer,
    )

    assert_equal(kernels.store_latents(before, latents, batch, pages), expected)


def check_gather(kernels: QuantizedKernels, batch: Batch) -> None:
    configuration, rng = kernels.configuration, batch.rng()
    pages = batch.read()
    numbers = filled_pool(rng, configuration, batch)
    pool = quantized_pool(rng, configuration, numbers)
    spare_rows = 3
    num_rows = int(batch.context_row_offsets[-1]) + spare_rows
    shape = (num_rows, configuration.head_dim)
    latents = np.full(shape, batch.poison, np.float32)
    expected = latents.copy()
    reference.gather_latents(
        rounded(pool.meant(configuration), configuration.dtype),
        expected,
        batch.context_row_offsets,
        pages.lookup_table,
        layer=configuration.layer,
    )
    assert np.isfinite(expected[:-spare_rows]).all()

    actual = kernels.gather_latents(pool, latents, batch, pages)

    np.testing.assert_array_equal(actual, expected)
