"""Each op against its meaning: the properties that hold on any device."""

from collections.abc import Callable

import numpy as np

from kvcache import reference

from .batch import Batch, Indices, Pages
from .buffers import Array, rounded, to_array
from .configuration import Configuration, Rotation
from .models import Kernels
from .rules import CAUSAL, Rules

TOLERANCE = {
    "float32": {"rtol": 1e-5, "atol": 1e-5},
    "bfloat16": {"rtol": 2.0**-8, "atol": 1e-5},
    "float16": {"rtol": 2.0**-11, "atol": 1e-5},
}
"""Sums are float32; a result is rounded once to the element type."""


def check_store(kernels: Kernels, batch: Batch) -> None:
    configuration, rng = kernels.configuration, batch.rng()
    pages = batch.written()
    keys, values = (
        drawn(rng, configuration, batch.num_rows, *configuration.row)
        for _ in "kv"
    )
    expected = poisoned_pool(configuration, batch, pages.num_pages)
    pool = kernels.elements(expected)
    reference.store(
        expected,
        keys,
        values,
        batch.input_row_offsets,
        batch.cache_lengths,
        pages.lookup_table,
        layer=configuration.layer,
    )

    kernels.store(pool, keys, values, batch, pages)

    np.testing.assert_array_equal(to_array(pool), expected)


def check_rope_store(
    kernels: Kernels, batch: Batch, rotation: Rotation
) -> None:
    configuration, rng = kernels.configuration, batch.rng()
    pages = batch.written()
    num_heads = configuration.num_q_heads + 2 * configuration.num_kv_heads
    qkv = drawn(
        rng, configuration, batch.num_rows, num_heads * configuration.head_dim
    )
    freqs = poisoned_freqs(rng, batch, rotation.rope_dim)
    expected = poisoned_pool(configuration, batch, pages.num_pages)
    pool = kernels.elements(expected)
    expected_queries = reference.rope_store(
        expected,
        qkv,
        freqs,
        batch.input_row_offsets,
        batch.cache_lengths,
        pages.lookup_table,
        layer=configuration.layer,
        interleaved=rotation.interleaved,
    )

    queries = kernels.rope_store(
        pool, qkv, freqs, batch, pages, rotation=rotation
    )

    actual = to_array(pool)
    rest = np.s_[..., rotation.rope_dim :]
    tolerance = TOLERANCE[configuration.dtype]
    np.testing.assert_allclose(queries, expected_queries, **tolerance)
    np.testing.assert_array_equal(queries[rest], expected_queries[rest])
    np.testing.assert_allclose(actual[:, 0], expected[:, 0], **tolerance)
    np.testing.assert_array_equal(actual[:, 0][rest], expected[:, 0][rest])
    np.testing.assert_array_equal(actual[:, 1], expected[:, 1])


def check_gather(kernels: Kernels, batch: Batch) -> None:
    configuration, rng = kernels.configuration, batch.rng()
    pages = batch.read()
    pool = filled_pool(rng, configuration, batch)
    spare_rows = 3
    num_rows = int(batch.context_row_offsets[-1]) + spare_rows
    shape = (num_rows, *configuration.row)
    keys, values = (np.full(shape, batch.poison, np.float32) for _ in "kv")
    expected_keys, expected_values = keys.copy(), values.copy()
    reference.gather(
        pool,
        expected_keys,
        expected_values,
        batch.context_row_offsets,
        pages.lookup_table,
        layer=configuration.layer,
    )
    assert np.isfinite(expected_keys[:-spare_rows]).all()

    actual_keys, actual_values = kernels.gather(
        kernels.elements(pool), keys, values, batch, pages
    )

    np.testing.assert_array_equal(actual_keys, expected_keys)
    np.testing.assert_array_equal(actual_values, expected_values)


def check_copy_pages(
    kernels: Kernels, pairs: Indices, *, seed: int = 0
) -> None:
    configuration = kernels.configuration
    num_pages = int(pairs.max(initial=0)) + 1
    expected = drawn(
        np.random.default_rng(seed),
        configuration,
        num_pages + 1,
        *configuration.page,
    )
    pool = kernels.elements(expected)
    reference.copy_pages(expected, pairs)

    kernels.copy_pages(pool, pairs)

    np.testing.assert_array_equal(to_array(pool), expected)


def check_attention(kernels: Kernels, batch: Batch, rules: Rules) -> None:
    """Checks that the right tokens are seen, and that no other is touched.

    What no token sees is poison, and a page of which none sees anything has no
    entry in the lookup table.
    """
    configuration, rng = kernels.configuration, batch.rng()
    pool, pages = seen_pool(rng, configuration, batch, rules)
    heads = configuration.num_q_heads, configuration.head_dim
    # Wide scores: a softmax over nearly equal ones hides a wrong key.
    queries = rounded(
        3 * rng.standard_normal((batch.num_rows, *heads), np.float32),
        configuration.dtype,
    )
    sinks = None
    if rules.has_sinks:
        sinks = 3 * rng.standard_normal(heads[0], np.float32)

    actual = kernels.attention(
        *(kernels.elements(pool), queries, batch, pages),
        rules=rules,
        sinks=sinks,
    )

    check_weighted(
        *(kernels, actual, pool, queries, batch, pages),
        rules=rules,
        sinks=sinks,
    )


def check_weighted(
    kernels: Kernels,
    actual: Array,
    pool: Array,
    queries: Array,
    batch: Batch,
    pages: Pages,
    *,
    rules: Rules,
    sinks: Array | None,
) -> None:
    """Checks what an attention gave for a pool, up to its rounding."""
    configuration = kernels.configuration

    def attend(pool: Array) -> Array:
        return reference.attention(
            pool,
            queries,
            batch.input_row_offsets,
            batch.cache_lengths,
            pages.lookup_table,
            layer=configuration.layer,
            scale=configuration.scale,
            window=rules.window,
            sink_tokens=rules.sink_tokens,
            sinks=sinks,
            softcap=rules.softcap,
            value_dim=configuration.value_dim,
        ).astype(np.float64)

    check_near(kernels, batch, actual, pool, attend)


def check_near(
    kernels: Kernels,
    batch: Batch,
    actual: Array,
    pool: Array,
    attend: Callable[[Array], Array],
) -> None:
    """Checks what an attention gave, up to its rounding.

    Weights that are rounded to 16 bits before the tensor cores multiply them
    err each by a part of itself: the sum by no more than that part of the
    same sum over the values' sizes.

    Args:
        kernels: What computed it.
        batch: The batch.
        actual: What was computed.
        pool: What was attended to.
        attend: What the attention over a pool means.
    """
    configuration = kernels.configuration
    expected = attend(pool)
    assert np.isfinite(expected).all()
    tolerance = TOLERANCE[configuration.dtype]
    bound = tolerance["atol"] + tolerance["rtol"] * np.abs(expected)
    if error := kernels.weight_error(batch):
        sizes = pool.copy()
        sizes[:, 1] = np.abs(sizes[:, 1])
        bound += error * attend(sizes)
    is_near = np.abs(actual - expected) <= bound  # not where it is NaN
    assert is_near.all(), (
        f"{np.count_nonzero(~is_near)} of {is_near.size} differ, the first at "
        f"{np.argwhere(~is_near)[0]}: wanted {expected[~is_near][0]}, "
        f"got {actual[~is_near][0]}"
    )


def drawn(
    rng: np.random.Generator, configuration: Configuration, *shape: int
) -> Array:
    """Draws numbers that the element type has."""
    return rounded(rng.standard_normal(shape, np.float32), configuration.dtype)


def poisoned_pool(
    configuration: Configuration, batch: Batch, num_pages: int
) -> Array:
    """Returns a pool that nobody has written to, the null page included."""
    shape = (num_pages + 1, *configuration.page)
    return np.full(shape, batch.poison, np.float32)


def filled_pool(
    rng: np.random.Generator, configuration: Configuration, batch: Batch
) -> Array:
    """Returns a pool with every token of the batch in one layer, no more."""
    pool, _ = seen_pool(rng, configuration, batch, CAUSAL)
    return pool


def seen_pool(
    rng: np.random.Generator,
    configuration: Configuration,
    batch: Batch,
    rules: Rules,
) -> tuple[Array, Pages]:
    """Returns a pool with the tokens that new ones see, and their pages."""
    pages = batch.read()
    pool = poisoned_pool(configuration, batch, pages.num_pages)
    table = pages.lookup_table.copy()
    for seq, (cached, new) in enumerate(batch.lengths):
        (positions,) = np.nonzero(rules.seen(cached, new))
        columns, slots = np.divmod(positions, configuration.page_size)
        places = table[seq, columns]
        for kv in range(configuration.kv_dim):
            pool[places, kv, configuration.layer, slots] = drawn(
                rng, configuration, len(positions), *configuration.row
            )
        hidden = np.ones(table.shape[1], np.bool_)
        hidden[columns] = False
        table[seq, hidden] = batch.stray_page(pages.num_pages)
    return pool, Pages(table, pages.num_pages)


def poisoned_freqs(
    rng: np.random.Generator, batch: Batch, rope_dim: int
) -> Array:
    """Returns the angles of the batch's new positions, and poison elsewhere."""
    num_positions = int(batch.context_lengths.max(initial=1))
    freqs = np.full((num_positions, rope_dim), batch.poison, np.float32)
    for cached, new in batch.lengths:
        shape = (new, rope_dim)
        freqs[cached : cached + new] = rng.standard_normal(shape, np.float32)
    return freqs
