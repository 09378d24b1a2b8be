"""Stores that keep summaries, against the plain ones and the numpy backend."""

from dataclasses import dataclass, replace

import numpy as np
from max.driver import Buffer

from kvcache.compiler.numpy_backend import run_cache

from .batch import Batch, Pages
from .buffers import (
    Array,
    codes_to_buffer,
    to_array,
    to_buffer,
    to_codes,
)
from .checks import drawn, poisoned_freqs
from .flow_checks import TOLERANCE, UNTOUCHED, completed, places_of, tokens_of
from .flow_stores import STORES, NewRows, run_stores
from .flows import FlowKernels
from .quantized import Pool, drawn_scales, quantized_pool


def check_stores(kernels: FlowKernels, batch: Batch) -> None:
    """Checks pools and queries against plain stores, and all summaries.

    What a step neither reads nor writes is poison.
    """
    batch = replace(batch, shared_columns=0)
    pages = batch.read()
    rows = _new_rows(kernels, batch)
    held = _Pools(kernels, _cached(kernels, batch, pages), batch)
    pools = {name: held.buffers() for name in STORES}
    fields = {name: _fields(kernels, pages) for name in STORES[::2]}

    queries = run_stores(kernels, pools, fields, rows, batch, pages)

    plain = len(queries) // 2
    for one, other in zip(queries[:plain], queries[plain:], strict=True):
        np.testing.assert_array_equal(one, other)
    for name, leaves in fields.items():
        held.check_equal(pools[name], pools[f"plain_{name}"])
        _check_fields(kernels, batch, pages, held.meant(pools[name]), leaves)


@dataclass(frozen=True, slots=True)
class _Pools:
    """Copies of a pool that has what is cached."""

    kernels: FlowKernels
    numbers: Array
    batch: Batch

    def buffers(self) -> list[Buffer]:
        """Returns a copy, with its scales if it has some."""
        sizes = self.kernels.configuration.sizes
        device = self.kernels.compiled.device
        if sizes.kept is None:
            return [to_buffer(self.numbers, device, sizes.dtype)]
        pool = quantized_pool(self.batch.rng(), sizes, self.numbers)
        return [
            codes_to_buffer(pool.codes, device, sizes.kept.dtype),
            to_buffer(pool.scales, device),
        ]

    def meant(self, buffers: list[Buffer]) -> Array:
        """Returns the numbers that a pool holds."""
        sizes = self.kernels.configuration.sizes
        if sizes.kept is None:
            return to_array(buffers[0])
        return Pool(to_codes(buffers[0]), to_array(buffers[1])).meant(sizes)

    def check_equal(self, one: list[Buffer], other: list[Buffer]) -> None:
        """Checks that pools are equal, NaN where they are."""
        is_plain = self.kernels.configuration.sizes.kept is None
        (a, *scales), (b, *other_scales) = one, other
        read = to_array if is_plain else to_codes
        np.testing.assert_array_equal(read(a), read(b))
        for x, y in zip(scales, other_scales, strict=True):
            np.testing.assert_array_equal(to_array(x), to_array(y))


def _cached(kernels: FlowKernels, batch: Batch, pages: Pages) -> Array:
    """Returns a pool with numbers where tokens are cached, else poison."""
    sizes = kernels.configuration.sizes
    shape = (pages.num_pages + 1, *sizes.page)
    numbers = np.full(shape, batch.poison, np.float32)
    rng = batch.rng()
    for seq, (cached, _) in enumerate(batch.lengths):
        for begin in range(0, cached, sizes.page_size):
            page = pages.lookup_table[seq, begin // sizes.page_size]
            part = np.s_[page, :, :, : min(sizes.page_size, cached - begin)]
            numbers[part] = drawn(rng, sizes, *numbers[part].shape)
    return numbers


def _new_rows(kernels: FlowKernels, batch: Batch) -> NewRows:
    sizes, rng = kernels.configuration.sizes, batch.rng()
    heads = sizes.num_kv_heads, sizes.head_dim
    num_heads = sizes.num_q_heads + 2 * sizes.num_kv_heads
    layers = range(sizes.num_layers)
    return NewRows(
        keys=[drawn(rng, sizes, batch.num_rows, *heads) for _ in layers],
        values=[drawn(rng, sizes, batch.num_rows, *heads) for _ in layers],
        qkv=[
            drawn(rng, sizes, batch.num_rows, num_heads * sizes.head_dim)
            for _ in layers
        ],
        freqs=poisoned_freqs(rng, batch, sizes.head_dim),
        scales=None if sizes.kept is None else drawn_scales(rng, sizes),
    )


def _fields(kernels: FlowKernels, pages: Pages) -> list[Buffer]:
    configuration = kernels.configuration
    return [
        to_buffer(
            np.full(
                (pages.num_pages + 1, *configuration.field_shape(field)),
                UNTOUCHED,
                np.float32,
            ),
            kernels.compiled.device,
            field.dtype,
        )
        for field in configuration.summaries.fields
    ]


def _check_fields(
    kernels: FlowKernels,
    batch: Batch,
    pages: Pages,
    meant: Array,
    leaves: list[Buffer],
) -> None:
    """Checks the summaries of completed blocks; no other is written."""
    configuration = kernels.configuration
    fields = configuration.summaries.fields
    places = places_of(kernels, pages, completed(kernels, batch))
    actual = {f.name: to_array(x) for f, x in zip(fields, leaves, strict=True)}
    expected = {
        name: np.full(array.shape, UNTOUCHED, np.float32)
        for name, array in actual.items()
    }
    for layer in range(configuration.sizes.num_layers):
        for head in range(configuration.sizes.num_kv_heads):
            at = np.s_[places[:, 0], layer, places[:, 1], head]
            given = {name: array[at] for name, array in expected.items()}
            tiles = tokens_of(kernels, meant, places, layer=layer, head=head)
            made = run_cache(configuration.programs.cache, {**given, **tiles})
            for name, values in made.items():
                expected[name][at] = values
    for field in fields:
        np.testing.assert_allclose(
            actual[field.name],
            expected[field.name],
            **TOLERANCE[field.dtype],
            err_msg=field.name,
        )
