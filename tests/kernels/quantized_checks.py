"""Each op on quantised pages against its meaning."""

import numpy as np

from kvcache import reference
from kvcache import reference_quantized as quantized

from .batch import Batch, Indices
from .buffers import Array, rounded
from .checks import (
    TOLERANCE,
    check_weighted,
    filled_pool,
    poisoned_freqs,
    seen_pool,
)
from .configuration import Rotation
from .quantized import (
    Pool,
    QuantizedKernels,
    drawn_rows,
    drawn_scales,
    kept,
    poisoned_pool,
    quantized_pool,
    spread,
)
from .rules import Rules

STEP = {"float8_e4m3fn": 2.0**-3, "float8_e5m2": 2.0**-2, "int8": 0.0}
"""How far the next code is, relative to a number; for int8 it is the scale."""


def check_every_op(kernels: QuantizedKernels, batch: Batch) -> None:
    """Checks what depends on a batch, with all rotations and rules."""
    check_store(kernels, batch)
    for rotation in kernels.configuration.rotations:
        check_rope_store(kernels, batch, rotation)
    check_gather(kernels, batch)
    for rules in kernels.configuration.rules:
        check_attention(kernels, batch, rules)


def check_store(kernels: QuantizedKernels, batch: Batch) -> None:
    configuration, rng = kernels.configuration, batch.rng()
    pages = batch.written()
    keys, values = (
        drawn_rows(rng, configuration, batch.num_rows, *configuration.row)
        for _ in "kv"
    )
    scales = drawn_scales(rng, configuration)
    expected = poisoned_pool(configuration, batch, pages.num_pages)
    before = expected.copy()
    quantized.store_quantized(
        expected.codes,
        expected.scales,
        keys,
        values,
        batch.input_row_offsets,
        batch.cache_lengths,
        pages.lookup_table,
        kv_dtype=kept(configuration).dtype,
        layer=configuration.layer,
        scales=scales,
    )

    actual = kernels.store(before, keys, values, batch, pages, scales=scales)

    assert_equal(actual, expected)


def check_rope_store(
    kernels: QuantizedKernels, batch: Batch, rotation: Rotation
) -> None:
    configuration, rng = kernels.configuration, batch.rng()
    pages = batch.written()
    num_heads = configuration.num_q_heads + 2 * configuration.num_kv_heads
    shape = (batch.num_rows, num_heads, configuration.head_dim)
    qkv = drawn_rows(rng, configuration, *shape).reshape(
        batch.num_rows, num_heads * configuration.head_dim
    )
    freqs = poisoned_freqs(rng, batch, rotation.rope_dim)
    scales = drawn_scales(rng, configuration)
    expected = poisoned_pool(configuration, batch, pages.num_pages)
    before = expected.copy()
    expected_queries, keys, values = reference.rope_rows(
        qkv,
        freqs,
        batch.input_row_offsets,
        batch.cache_lengths,
        num_kv_heads=configuration.num_kv_heads,
        head_dim=configuration.head_dim,
        interleaved=rotation.interleaved,
    )
    quantized.store_quantized(
        expected.codes,
        expected.scales,
        rounded(keys, configuration.dtype),
        values,
        batch.input_row_offsets,
        batch.cache_lengths,
        pages.lookup_table,
        kv_dtype=kept(configuration).dtype,
        layer=configuration.layer,
        scales=scales,
    )

    queries, actual = kernels.rope_store(
        before, qkv, freqs, batch, pages, rotation=rotation, scales=scales
    )

    np.testing.assert_allclose(
        queries, expected_queries, **TOLERANCE[configuration.dtype]
    )
    assert_equal(
        Pool(actual.codes[:, 1], actual.scales[:, 1]),
        Pool(expected.codes[:, 1], expected.scales[:, 1]),
    )
    assert_within_a_step(kernels, actual, expected)


def assert_within_a_step(
    kernels: QuantizedKernels, actual: Pool, expected: Pool
) -> None:
    """Checks turned keys, which may be rounded to the next code."""
    configuration = kernels.configuration
    tolerance = TOLERANCE[configuration.dtype]
    np.testing.assert_allclose(actual.scales, expected.scales, **tolerance)
    got, want = actual.meant(configuration), expected.meant(configuration)
    written = np.isfinite(want)
    np.testing.assert_array_equal(np.isfinite(got), written)
    scale = spread(expected.scales, want.shape)[written]
    got, want = got[written], want[written]
    step = np.maximum(np.abs(want) * STEP[kept(configuration).dtype], scale)
    bound = step + 2 * tolerance["rtol"] * np.abs(want)
    assert (np.abs(got - want) <= bound).all()


def check_gather(kernels: QuantizedKernels, batch: Batch) -> None:
    configuration, rng = kernels.configuration, batch.rng()
    pages = batch.read()
    numbers = filled_pool(rng, configuration, batch)
    pool = quantized_pool(rng, configuration, numbers)
    meant = rounded(pool.meant(configuration), configuration.dtype)
    spare_rows = 3
    num_rows = int(batch.context_row_offsets[-1]) + spare_rows
    rows = np.full((num_rows, *configuration.row), batch.poison, np.float32)
    expected = rows.copy(), rows.copy()
    reference.gather(
        meant,
        *expected,
        batch.context_row_offsets,
        pages.lookup_table,
        layer=configuration.layer,
    )
    assert np.isfinite(expected[0][:-spare_rows]).all()

    actual = kernels.gather(pool, rows, batch, pages)

    np.testing.assert_array_equal(actual, expected)


def check_copy_pages(
    kernels: QuantizedKernels, pairs: Indices, *, seed: int = 0
) -> None:
    configuration, rng = kernels.configuration, np.random.default_rng(seed)
    num_pages = int(pairs.max(initial=0)) + 1
    shape = (num_pages + 1, *configuration.page)
    scales_shape = (num_pages + 1, *configuration.scales_of_page)
    expected = Pool(
        rng.integers(0, 256, shape, np.uint8),
        rng.standard_normal(scales_shape, np.float32),
    )
    before = expected.copy()
    for pool in (expected.codes, expected.scales):
        reference.copy_pages(pool, pairs)

    assert_equal(kernels.copy_pages(before, pairs), expected)


def check_attention(
    kernels: QuantizedKernels, batch: Batch, rules: Rules
) -> None:
    configuration, rng = kernels.configuration, batch.rng()
    numbers, pages = seen_pool(rng, configuration, batch, rules)
    pool = quantized_pool(rng, configuration, numbers)
    heads = configuration.num_q_heads, configuration.head_dim
    queries = rounded(
        3 * rng.standard_normal((batch.num_rows, *heads), np.float32),
        configuration.dtype,
    )
    sinks: Array | None = None
    if rules.has_sinks:
        sinks = 3 * rng.standard_normal(heads[0], np.float32)

    actual = kernels.attention(
        pool, queries, batch, pages, rules=rules, sinks=sinks
    )

    meant = pool.meant(configuration)
    check_weighted(
        *(kernels.kernels, actual, meant, queries, batch, pages),
        rules=rules,
        sinks=sinks,
    )


def assert_equal(actual: Pool, expected: Pool) -> None:
    """Checks codes and scales to the bit."""
    np.testing.assert_array_equal(actual.codes, expected.codes)
    np.testing.assert_array_equal(actual.scales, expected.scales)
