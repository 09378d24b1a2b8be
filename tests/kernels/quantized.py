"""Quantised pools, and the kernels that work on them."""

from dataclasses import dataclass

import numpy as np
from max.driver import Buffer

from kvcache import reference_quantized as reference

from .batch import Batch, Indices, Pages
from .buffers import (
    Array,
    codes_to_buffer,
    rounded,
    to_array,
    to_buffer,
    to_codes,
)
from .configuration import Configuration, Kept, Rotation
from .models import Kernels
from .rules import Rules

POISON = {"float8_e4m3fn": 0x7F, "float8_e5m2": 0x7F, "int8": 0x80}
"""Codes that no store writes: NaN, and the one that int8 does without."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A quantised pool on the host; what nobody has written is poison."""

    codes: Array  # uint8 [num_pages + 1, 2, num_layers, ...]
    scales: Array  # [num_pages + 1, 2, num_layers, slots, heads, groups]

    def copy(self) -> "Pool":
        return Pool(self.codes.copy(), self.scales.copy())

    def meant(self, configuration: Configuration) -> Array:
        """Returns the pool that it means, float32."""
        dtype = kept(configuration).dtype
        return reference.dequantized(self.codes, self.scales, dtype)


def kept(configuration: Configuration) -> Kept:
    """Returns how a quantised configuration's pool holds its elements."""
    assert configuration.kept is not None
    return configuration.kept


def poisoned_pool(
    configuration: Configuration, batch: Batch, num_pages: int
) -> Pool:
    """Returns a pool that nobody has written to, the null page included."""
    shape = (num_pages + 1, *configuration.page)
    scales_shape = (num_pages + 1, *configuration.scales_of_page)
    return Pool(
        np.full(shape, POISON[kept(configuration).dtype], np.uint8),
        np.full(scales_shape, batch.poison, np.float32),
    )


def quantized_pool(
    rng: np.random.Generator, configuration: Configuration, numbers: Array
) -> Pool:
    """Returns codes of finite numbers under scales of their own; else poison.

    The scales differ from page to page, whatever shares one within a page.
    """
    dtype = kept(configuration).dtype
    shape = (len(numbers), *configuration.scales_of_page)
    scales = rng.uniform(3, 5, shape).astype(np.float32)
    scales /= np.float32(reference.LARGEST[dtype])
    is_written = np.isfinite(numbers)
    codes = reference.quantize(
        np.where(is_written, numbers, 0),
        spread(scales, numbers.shape),
        dtype,
    )
    codes[~is_written] = POISON[dtype]
    scales[~has_any(is_written, shape)] = np.nan
    return Pool(codes, scales)


def spread(scales: Array, shape: tuple[int, ...]) -> Array:
    """Returns each element's scale."""
    groups = np.repeat(scales, shape[-1] // scales.shape[-1], axis=-1)
    return np.broadcast_to(groups, shape)


def has_any(flags: Array, shape: tuple[int, ...]) -> Array:
    """Returns which scales belong to a flagged element."""
    for axis, size in enumerate(shape):
        parts = (*flags.shape[:axis], size, -1, *flags.shape[axis + 1 :])
        flags = flags.reshape(parts).any(axis=axis + 1)
    return flags


@dataclass(frozen=True, slots=True)
class QuantizedKernels:
    """The graphs of one quantised configuration."""

    kernels: Kernels

    @property
    def configuration(self) -> Configuration:
        return self.kernels.configuration

    def store(
        self,
        pool: Pool,
        keys: Array,
        values: Array,
        batch: Batch,
        pages: Pages,
        *,
        scales: Array | None,
    ) -> Pool:
        """Returns the pool with the new tokens."""
        kernels, buffers = self.kernels, self._buffers(pool)
        kernels.run(
            "store",
            *self._cache(buffers, batch, pages),
            *(kernels.elements(keys), kernels.elements(values)),
            kernels.indices(batch.input_row_offsets),
            *self._given(scales),
        )
        return _to_host(buffers)

    def store_latents(
        self, pool: Pool, latents: Array, batch: Batch, pages: Pages
    ) -> Pool:
        """Returns the pool with the new latents."""
        kernels, buffers = self.kernels, self._buffers(pool)
        kernels.run(
            "store",
            *self._cache(buffers, batch, pages),
            kernels.elements(latents),
            kernels.indices(batch.input_row_offsets),
        )
        return _to_host(buffers)

    def gather_latents(
        self, pool: Pool, latents: Array, batch: Batch, pages: Pages
    ) -> Array:
        """Returns `latents` with the sequences' tokens in them."""
        kernels, output = self.kernels, self.kernels.elements(latents)
        kernels.run(
            "gather",
            *self._cache(self._buffers(pool), batch, pages),
            *(output, kernels.indices(batch.context_row_offsets)),
        )
        return to_array(output)

    def rope_store(
        self,
        pool: Pool,
        qkv: Array,
        freqs: Array,
        batch: Batch,
        pages: Pages,
        *,
        rotation: Rotation,
        scales: Array | None,
    ) -> tuple[Array, Pool]:
        """Returns the queries, and the pool with the new tokens."""
        kernels, buffers = self.kernels, self._buffers(pool)
        (queries,) = kernels.run(
            str(rotation),
            *self._cache(buffers, batch, pages),
            *(kernels.elements(qkv), to_buffer(freqs, kernels.device)),
            kernels.indices(batch.input_row_offsets),
            *self._given(scales),
        )
        return to_array(queries), _to_host(buffers)

    def gather(
        self, pool: Pool, rows: Array, batch: Batch, pages: Pages
    ) -> tuple[Array, Array]:
        """Returns keys and values: `rows` with the sequences' tokens."""
        kernels = self.kernels
        outputs = kernels.elements(rows), kernels.elements(rows)
        kernels.run(
            "gather",
            *self._cache(self._buffers(pool), batch, pages),
            *(*outputs, kernels.indices(batch.context_row_offsets)),
        )
        return to_array(outputs[0]), to_array(outputs[1])

    def copy_pages(self, pool: Pool, pairs: Indices) -> Pool:
        """Returns the pool with the pages copied."""
        buffers = self._buffers(pool)
        self.kernels.run("copy_pages", *buffers, self.kernels.indices(pairs))
        return _to_host(buffers)

    def attention(
        self,
        pool: Pool,
        queries: Array,
        batch: Batch,
        pages: Pages,
        *,
        rules: Rules,
        sinks: Array | None,
    ) -> Array:
        """Returns the weighted values."""
        kernels = self.kernels
        (output,) = kernels.run(
            str(rules),
            *self._cache(self._buffers(pool), batch, pages),
            kernels.elements(queries),
            kernels.indices(batch.input_row_offsets),
            *self._given(sinks),
        )
        return to_array(output)

    def _buffers(self, pool: Pool) -> tuple[Buffer, Buffer]:
        device, dtype = self.kernels.device, kept(self.configuration).dtype
        return (
            codes_to_buffer(pool.codes, device, dtype),
            to_buffer(pool.scales, device),
        )

    def _cache(
        self, buffers: tuple[Buffer, Buffer], batch: Batch, pages: Pages
    ) -> list[Buffer]:
        """Returns the cache's inputs in their order."""
        blocks, scales = buffers
        return [blocks, *self.kernels.tables(batch, pages), scales]

    def _given(self, array: Array | None) -> list[Buffer]:
        if array is None:
            return []
        return [to_buffer(array, self.kernels.device)]


def _to_host(buffers: tuple[Buffer, Buffer]) -> Pool:
    blocks, scales = buffers
    return Pool(to_codes(blocks), to_array(scales))


def drawn_rows(
    rng: np.random.Generator, configuration: Configuration, *shape: int
) -> Array:
    """Draws rows of heads of very different sizes, some all zeros."""
    sizes = np.float32(2) ** rng.integers(-12, 6, (*shape[:-1], 1))
    sizes[rng.random(sizes.shape) < 0.1] = 0
    rows = sizes.astype(np.float32) * rng.standard_normal(shape, np.float32)
    return rounded(rows, configuration.dtype)


def drawn_scales(
    rng: np.random.Generator, configuration: Configuration
) -> Array | None:
    """Draws what a store is given, if it is: some rows do not fit the codes."""
    dtype, granularity = (
        kept(configuration).dtype,
        kept(configuration).granularity,
    )
    if granularity == "token":
        return None
    shape = (2, configuration.scales_of_page[3])
    scales = rng.uniform(0.1, 3, shape) / reference.LARGEST[dtype]
    return scales.astype(np.float32)
