"""Compiled flows against the numpy backend, on any device."""

import numpy as np
from max.driver import Buffer

from kvcache.compiler.numpy_backend import run_cache, score_blocks

from .batch import Batch, Pages
from .buffers import Array, codes_to_buffer, rounded, to_buffer
from .checks import drawn
from .flows import FlowKernels
from .quantized import POISON, quantized_pool

TOLERANCE = {
    "float32": {"rtol": 2e-5, "atol": 2e-5},
    "bfloat16": {"rtol": 2.0**-7, "atol": 2e-3},
    "float16": {"rtol": 2.0**-10, "atol": 1e-3},
}
"""Sums are float32, in another order; a field is rounded once."""

UNTOUCHED = -77.0
"""What nobody writes stays."""


def check_summaries(kernels: FlowKernels, batch: Batch) -> None:
    """Checks the blocks that a step completes, and that no other is written.

    What belongs to no such block is poison.
    """
    configuration = kernels.configuration
    pages = batch.read()
    pools, meant = _pools(kernels, batch, pages, completed(kernels, batch))
    before = {
        field.name: np.full(
            (pages.num_pages + 1, *configuration.field_shape(field)),
            UNTOUCHED,
            np.float32,
        )
        for field in configuration.summaries.fields
    }
    expected = {name: array.copy() for name, array in before.items()}
    places = places_of(kernels, pages, completed(kernels, batch))
    for layer in range(configuration.sizes.num_layers):
        for head in range(configuration.sizes.num_kv_heads):
            tiles = tokens_of(kernels, meant, places, layer=layer, head=head)
            given = {
                name: array[places[:, 0], layer, places[:, 1], head]
                for name, array in before.items()
            }
            made = run_cache(configuration.programs.cache, {**given, **tiles})
            for name, values in made.items():
                expected[name][places[:, 0], layer, places[:, 1], head] = values

    actual = kernels.summarise(pools, before, batch, pages)

    for field in configuration.summaries.fields:
        np.testing.assert_allclose(
            actual[field.name],
            expected[field.name],
            **TOLERANCE[field.dtype],
            err_msg=field.name,
        )


def check_scores(kernels: FlowKernels, batch: Batch) -> None:
    """Checks the scores of complete blocks; all others' fields are NaN."""
    configuration, rng = kernels.configuration, batch.rng()
    sizes = configuration.sizes
    pages = batch.read()
    pools, meant = _pools(kernels, batch, pages, scored(kernels, batch))
    places = places_of(kernels, pages, scored(kernels, batch))
    fields = {}
    for field in configuration.summaries.fields:
        shape = (pages.num_pages + 1, *configuration.field_shape(field))
        array = np.full(shape, np.nan, np.float32)
        tiles = array[places[:, 0], sizes.layer, places[:, 1]]
        array[places[:, 0], sizes.layer, places[:, 1]] = rounded(
            rng.standard_normal(tiles.shape, np.float32), field.dtype
        )
        fields[field.name] = array
    heads = sizes.num_q_heads, sizes.head_dim
    queries = drawn(rng, sizes, batch.num_rows, *heads)

    actual = kernels.score(pools, fields, queries, batch, pages)

    counts = [len(blocks) for blocks in scored(kernels, batch)]
    ends = np.cumsum(counts, dtype=int)
    for seq, (end, count) in enumerate(zip(ends, counts, strict=True)):
        own = places[end - count : end]
        row = int(batch.input_row_offsets[seq])
        for head in range(sizes.num_kv_heads):
            if not count:
                continue
            tiles = tokens_of(kernels, meant, own, layer=sizes.layer, head=head)
            for name, array in fields.items():
                tiles[name] = array[own[:, 0], sizes.layer, own[:, 1], head]
            group = configuration.group_size
            expected = score_blocks(
                configuration.programs.indexer,
                queries[row, head * group : (head + 1) * group],
                tiles,
            )
            assert np.isfinite(expected).all()
            np.testing.assert_allclose(
                actual[seq, head, :count], expected, rtol=1e-5, atol=1e-5
            )


def completed(kernels: FlowKernels, batch: Batch) -> list[range]:
    """Returns the blocks of each sequence that a step completes."""
    size = kernels.configuration.block_size
    return [
        range(cached // size, (cached + new) // size)
        for cached, new in batch.lengths
    ]


def scored(kernels: FlowKernels, batch: Batch) -> list[range]:
    """Returns the blocks of each sequence that are scored."""
    size = kernels.configuration.block_size
    return [
        range(cached // size if new == 1 else 0)
        for cached, new in batch.lengths
    ]


def places_of(kernels: FlowKernels, pages: Pages, blocks: list[range]) -> Array:
    """Returns page and place in the page of each block, `[n, 2]`."""
    per_page = kernels.configuration.blocks_per_page
    return np.array(
        [
            (pages.lookup_table[seq, block // per_page], block % per_page)
            for seq, own in enumerate(blocks)
            for block in own
        ],
        np.int64,
    ).reshape(-1, 2)


def _pools(
    kernels: FlowKernels, batch: Batch, pages: Pages, blocks: list[range]
) -> tuple[list[Buffer], Array]:
    """Returns pools with numbers in some blocks only, and what they mean."""
    configuration, device = kernels.configuration, kernels.compiled.device
    sizes, block = configuration.sizes, configuration.block_size
    shape = (pages.num_pages + 1, *sizes.page)
    numbers = np.full(shape, batch.poison, np.float32)
    for page, place in places_of(kernels, pages, blocks):
        part = np.s_[page, :, :, place * block : (place + 1) * block]
        numbers[part] = drawn(batch.rng(), sizes, *numbers[part].shape)
        numbers[part] = np.roll(numbers[part], int(page), axis=-1)
    if sizes.kept is None:
        return [to_buffer(numbers, device, sizes.dtype)], numbers
    assert sizes.kept.dtype in POISON
    pool = quantized_pool(batch.rng(), sizes, numbers)
    buffers = [
        codes_to_buffer(pool.codes, device, sizes.kept.dtype),
        to_buffer(pool.scales, device),
    ]
    return buffers, pool.meant(sizes)


def tokens_of(
    kernels: FlowKernels, meant: Array, places: Array, *, layer: int, head: int
) -> dict[str, Array]:
    """Returns the keys and values of blocks, `[n, block_size, head_dim]`."""
    block = kernels.configuration.block_size
    slots = places[:, 1:] * block + np.arange(block)
    return {
        name: meant[places[:, :1], kv, layer, slots, head]
        for kv, name in enumerate("kv")
    }
