"""Choosing blocks and attending to them, on any device, and their checks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from max.driver import Buffer, Device

from kvcache import reference, reference_sparse

from .batch import NO_PAGE, Batch, Indices, Pages
from .buffers import Array, codes_to_buffer, rounded, to_array, to_buffer
from .checks import check_near, drawn, poisoned_pool
from .models import CompiledKernels, Kernels, loaded
from .quantized import kept, quantized_pool
from .sparse_configuration import MEF_NAME, SparseCase

if TYPE_CHECKING:
    from max.graph import Module

SCORES = ("normal", "ties", "strange", "close", "equal", "zeros")
"""The kinds of scores."""

RATIOS = (0.0, 0.125, 0.3, 0.5, 0.999, 1.0, 7.0)


@dataclass(frozen=True, slots=True)
class SparseKernels:
    """The graphs of one case."""

    case: SparseCase
    kernels: Kernels

    def choose(
        self, scores: Array, ratios: Array, batch: Batch, pages: Pages
    ) -> tuple[Array, Array]:
        """Returns block ids, and the tokens in the blocks."""
        kernels, device = self.kernels, self.kernels.device
        configuration = self.case.configuration
        shape = (1, *configuration.page)
        cache = self._pools(np.zeros(shape, np.float32))
        outputs = self._run(
            "choose",
            *self._cache(cache, batch, pages),
            *(to_buffer(scores, device),),
            *(kernels.indices(batch.input_row_offsets),),
            *(to_buffer(ratios, device),),
        )
        ids, lengths = outputs
        return to_array(ids), to_array(lengths)

    def attend(
        self,
        pools: list[Buffer],
        queries: Array,
        batch: Batch,
        pages: Pages,
        chosen: tuple[Array, Array],
        sinks: Array | None,
    ) -> Array:
        """Returns the weighted values."""
        kernels = self.kernels
        (output,) = self._run(
            "attend",
            *self._cache(pools, batch, pages),
            kernels.elements(queries),
            kernels.indices(batch.input_row_offsets),
            *(kernels.indices(array) for array in chosen),
            *([] if sinks is None else [to_buffer(sinks, kernels.device)]),
        )
        return to_array(output)

    def pools(
        self, rng: np.random.Generator, numbers: Array
    ) -> tuple[list[Buffer], Array]:
        """Returns the pools with such numbers, and what they mean."""
        configuration = self.case.configuration
        if configuration.kept is None:
            return self._pools(numbers), numbers
        pool = quantized_pool(rng, configuration, numbers)
        device, dtype = self.kernels.device, kept(configuration).dtype
        buffers = [
            codes_to_buffer(pool.codes, device, dtype),
            to_buffer(pool.scales, device),
        ]
        return buffers, pool.meant(configuration)

    def _pools(self, numbers: Array) -> list[Buffer]:
        configuration, device = self.case.configuration, self.kernels.device
        if configuration.kept is None:
            return [self.kernels.elements(numbers)]
        codes = np.zeros(numbers.shape, np.uint8)
        shape = (len(numbers), *configuration.scales_of_page)
        return [
            codes_to_buffer(codes, device, kept(configuration).dtype),
            to_buffer(np.zeros(shape, np.float32), device),
        ]

    def _cache(
        self, pools: list[Buffer], batch: Batch, pages: Pages
    ) -> list[Buffer]:
        blocks, *scales = pools
        return [blocks, *self.kernels.tables(batch, pages), *scales]

    def _run(self, op: str, *inputs: Buffer) -> list[Buffer]:
        return self.kernels.models[f"{self.case}_{op}"].execute(*inputs)


def sparse_kernels_on(
    device: Device, cases: Iterable[SparseCase]
) -> CompiledKernels:
    """Compiles the graphs, asserts on, or loads them from a file."""

    def build() -> "Module":
        from max.graph import DeviceRef

        from .build import sparse_module

        return sparse_module(cases, DeviceRef.from_device(device))

    return loaded(device, MEF_NAME, build)


def drawn_scores(
    rng: np.random.Generator, case: SparseCase, batch: Batch, kind: str
) -> Array:
    """Draws scores; those that no choice may look at are NaN or infinite."""
    columns = batch.read().lookup_table.shape[1]
    width = columns * (case.configuration.page_size // case.block_size)
    shape = (len(batch.lengths), case.configuration.num_kv_heads, width)
    normal = rng.standard_normal(shape, np.float32)
    if kind == "normal":
        scores = normal
    elif kind == "ties":
        scores = np.round(normal)
    elif kind == "strange":
        scores = np.where(
            rng.random(shape) < 0.5,
            rng.choice([np.nan, -np.nan, np.inf, -np.inf, -3e38, 1e-44], shape),
            normal,
        )
    elif kind == "close":  # They differ in their last bits, or not at all.
        ones = rng.choice([-1, 1], shape).astype(np.float32).view(np.uint32)
        bits = ones + rng.integers(0, 5, shape, np.uint32)
        scores = bits.view(np.float32)
    elif kind == "equal":
        scores = np.full(shape, rng.choice([0, 1, np.nan, -np.inf, -2]))
    else:
        scores = rng.choice([0.0, -0.0, 1e-45, -1e-45], shape)
    scores = scores.astype(np.float32)
    for seq, (cached, _) in enumerate(batch.lengths):
        num_blocks = cached // case.block_size + 1
        last = max(num_blocks - case.reserved_last, 0)
        unseen = np.concatenate(
            [np.arange(min(case.reserved_first, width)), np.arange(last, width)]
        )
        strays = rng.choice([np.nan, np.inf, -np.inf], len(unseen))
        scores[seq][:, unseen] = strays
    return scores


def choice_of(
    case: SparseCase, scores: Array, ratios: Array, batch: Batch, pages: Pages
) -> tuple[list[list[list[int]]], Indices]:
    """Returns what the choice must be."""
    return reference_sparse.choose_blocks(
        scores,
        batch.input_row_offsets,
        batch.cache_lengths,
        pages.lookup_table,
        ratios,
        page_size=case.configuration.page_size,
        block_size=case.block_size,
        reserved_first=case.reserved_first,
        reserved_last=case.reserved_last,
        top_k=case.top_k,
    )


def check_choice(
    kernels: SparseKernels, batch: Batch, kind: str, ratios: Array | None = None
) -> None:
    """Checks the chosen blocks, to the bit."""
    case, rng, pages = kernels.case, batch.rng(), batch.read()
    scores = drawn_scores(rng, case, batch, kind)
    if ratios is None:
        ratios = rng.choice(RATIOS, len(batch.lengths))
    ratios = ratios.astype(np.float32)
    expected, expected_lengths = choice_of(case, scores, ratios, batch, pages)

    ids, lengths = kernels.choose(scores, ratios, batch, pages)

    np.testing.assert_array_equal(lengths, expected_lengths)
    for seq, head in np.ndindex(*ids.shape[:2]):
        wanted = expected[seq][head]
        assert ids[seq, head, : len(wanted)].tolist() == wanted


def check_attention(
    kernels: SparseKernels, batch: Batch, ratio: float | None = None
) -> None:
    """Checks that chosen blocks are seen, and that no other is.

    Of a sequence with one new token, what a head has not chosen is poison, and
    so are the ids behind those of the chosen blocks. With a ratio of 1 the
    result is that of the dense attention.
    """
    case, rng, pages = kernels.case, batch.rng(), batch.read()
    configuration = case.configuration
    scores = drawn_scores(rng, case, batch, "normal")
    ratios = rng.choice(RATIOS, len(batch.lengths)).astype(np.float32)
    if ratio is not None:
        ratios[:] = ratio
    chosen, lengths = choice_of(case, scores, ratios, batch, pages)
    numbers = sparse_pool(rng, case, batch, pages, chosen)
    pools, meant = kernels.pools(rng, numbers)
    heads = configuration.num_q_heads, configuration.head_dim
    queries = rounded(
        3 * rng.standard_normal((batch.num_rows, *heads), np.float32),
        configuration.dtype,
    )
    sinks = None
    if case.rules.has_sinks:
        sinks = 3 * rng.standard_normal(heads[0], np.float32)

    actual = kernels.attend(
        *(pools, queries, batch, pages),
        (padded(chosen, scores.shape), lengths),
        sinks,
    )

    def attend(pool: Array) -> Array:
        return reference_sparse.sparse_attention(
            *(pool, queries, batch.input_row_offsets, batch.cache_lengths),
            *(pages.lookup_table, chosen, lengths),
            layer=configuration.layer,
            scale=configuration.scale,
            block_size=case.block_size,
            sinks=sinks,
            softcap=case.rules.softcap,
        )

    check_near(kernels.kernels, batch, actual, meant, attend)
    if ratio == 1:
        dense = reference.attention(
            *(meant, queries, batch.input_row_offsets, batch.cache_lengths),
            pages.lookup_table,
            layer=configuration.layer,
            scale=configuration.scale,
            sinks=sinks,
            softcap=case.rules.softcap,
        )
        np.testing.assert_allclose(attend(meant), dense, rtol=1e-12, atol=1e-12)


def sparse_pool(
    rng: np.random.Generator,
    case: SparseCase,
    batch: Batch,
    pages: Pages,
    chosen: list[list[list[int]]],
) -> Array:
    """Returns a pool with the tokens that are attended to, and no more."""
    configuration = case.configuration
    pool = poisoned_pool(configuration, batch, pages.num_pages)
    layer, page_size = configuration.layer, configuration.page_size
    per_page = page_size // case.block_size
    for seq, (cached, new) in enumerate(batch.lengths):
        for head in range(configuration.num_kv_heads):
            positions = np.arange(cached + new)
            places = pages.lookup_table[seq, positions // page_size]
            slots = positions % page_size
            if new == 1:
                tables = pages.lookup_table[seq].astype(np.int64) * per_page
                ids = tables[positions // page_size] + slots // case.block_size
                is_seen = np.isin(ids, chosen[seq][head])
                places, slots = places[is_seen], slots[is_seen]
            for kv in range(2):
                pool[places, kv, layer, slots, head] = drawn(
                    rng, configuration, len(slots), configuration.head_dim
                )
    return pool


def padded(chosen: list[list[list[int]]], shape: tuple[int, ...]) -> Indices:
    """Returns the ids as the operation takes them, no block's id behind."""
    ids = np.full(shape, NO_PAGE, np.uint32)
    for seq, head in np.ndindex(*shape[:2]):
        blocks = chosen[seq][head]
        ids[seq, head, : len(blocks)] = blocks
    return ids
