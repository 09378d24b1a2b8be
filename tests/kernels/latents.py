"""Kernels on pages of latents, and what they mean."""

from dataclasses import dataclass

import numpy as np
from max.driver import Buffer

from kvcache import reference

from .batch import Batch, Pages
from .buffers import Array, to_array
from .checks import drawn, filled_pool, poisoned_pool
from .models import Kernels


@dataclass(frozen=True, slots=True)
class LatentKernels:
    """The graphs of one configuration of latents.

    Attention, page copy and shift take what those of keys and values take.
    """

    kernels: Kernels

    def store(
        self, pool: Buffer, latents: Array, batch: Batch, pages: Pages
    ) -> None:
        """Writes the new tokens, in place."""
        kernels = self.kernels
        kernels.run(
            "store",
            *(pool, *kernels.tables(batch, pages)),
            kernels.elements(latents),
            kernels.indices(batch.input_row_offsets),
        )

    def gather(
        self, pool: Buffer, latents: Array, batch: Batch, pages: Pages
    ) -> Array:
        """Returns `latents` with the sequences' tokens in them."""
        kernels, output = self.kernels, self.kernels.elements(latents)
        unused = np.full(len(batch.lengths), 2**32 - 1, np.uint32)
        _, *tables = kernels.tables(batch, pages)
        kernels.run(
            "gather",
            *(pool, kernels.indices(unused), *tables),
            *(output, kernels.indices(batch.context_row_offsets)),
        )
        return to_array(output)


def check_store(latent_kernels: LatentKernels, batch: Batch) -> None:
    kernels, rng = latent_kernels.kernels, batch.rng()
    configuration, pages = kernels.configuration, batch.written()
    latents = drawn(rng, configuration, batch.num_rows, configuration.head_dim)
    expected = poisoned_pool(configuration, batch, pages.num_pages)
    pool = kernels.elements(expected)
    reference.store_latents(
        expected,
        latents,
        batch.input_row_offsets,
        batch.cache_lengths,
        pages.lookup_table,
        layer=configuration.layer,
    )

    latent_kernels.store(pool, latents, batch, pages)

    np.testing.assert_array_equal(to_array(pool), expected)


def check_gather(latent_kernels: LatentKernels, batch: Batch) -> None:
    kernels, rng = latent_kernels.kernels, batch.rng()
    configuration, pages = kernels.configuration, batch.read()
    pool = filled_pool(rng, configuration, batch)
    spare_rows = 3
    num_rows = int(batch.context_row_offsets[-1]) + spare_rows
    latents = np.full((num_rows, configuration.head_dim), batch.poison)
    latents = latents.astype(np.float32)
    expected = latents.copy()
    reference.gather_latents(
        pool,
        expected,
        batch.context_row_offsets,
        pages.lookup_table,
        layer=configuration.layer,
    )
    assert np.isfinite(expected[:-spare_rows]).all()

    actual = latent_kernels.gather(
        kernels.elements(pool), latents, batch, pages
    )

    np.testing.assert_array_equal(actual, expected)
