"""A pool of more than 2**32 elements: every op on its last pages."""

import math

import numpy as np
from max.driver import Buffer

from kvcache import reference

from .batch import Batch, Pages
from .buffers import Array
from .checks import check_weighted, drawn
from .configuration import LARGE_PAGES
from .models import Kernels
from .rules import Rules

FIRST_FAR_PAGE = 2**32 // math.prod(LARGE_PAGES.page)
"""The page that starts at element 2**32; 32-bit offsets take it for page 0."""

NUM_PAGES = FIRST_FAR_PAGE + 4

SHAPE = (NUM_PAGES + 1, *LARGE_PAGES.page)
"""The pool's, its null page included; 8.6 GB of bfloat16."""

BATCH = Batch(lengths=[(0, 131), (127, 2)], page_size=LARGE_PAGES.page_size)
NEAR_TABLE = np.array([[2, 1], [3, 0]], np.uint32)


def check_large_pool(kernels: Kernels, pool: Buffer) -> None:
    """Stores, gathers, copies and attends where offsets take 33 bits.

    A pool of five pages tells what must come out.

    Args:
        kernels: Those of `LARGE_PAGES`.
        pool: Of `SHAPE`, zeros.
    """
    rng = np.random.default_rng(0)
    near = Pages(NEAR_TABLE, NEAR_TABLE.size)
    far = Pages(NEAR_TABLE + np.uint32(FIRST_FAR_PAGE), NUM_PAGES)
    rows = (BATCH.num_rows, *LARGE_PAGES.row)
    keys, values = (drawn(rng, LARGE_PAGES, *rows) for _ in "kv")
    expected = np.zeros((near.num_pages + 1, *LARGE_PAGES.page), np.float32)
    zeros = gathered(expected, near)
    reference.store(
        expected,
        keys,
        values,
        BATCH.input_row_offsets,
        BATCH.cache_lengths,
        near.lookup_table,
        layer=LARGE_PAGES.layer,
    )
    wanted = gathered(expected, near)

    kernels.store(pool, keys, values, BATCH, far)
    check_gathered(kernels, pool, far, wanted)
    check_gathered(kernels, pool, near, zeros)

    pages = np.arange(near.num_pages, dtype=np.uint32)
    kernels.copy_pages(pool, np.stack([pages + FIRST_FAR_PAGE, pages], axis=1))
    check_gathered(kernels, pool, near, wanted)
    check_attended(kernels, pool, far, expected)


def check_attended(
    kernels: Kernels, pool: Buffer, far: Pages, expected: Array
) -> None:
    rng = np.random.default_rng(1)
    heads = LARGE_PAGES.num_q_heads, LARGE_PAGES.head_dim
    queries = drawn(rng, LARGE_PAGES, BATCH.num_rows, *heads)
    near = Pages(NEAR_TABLE, NEAR_TABLE.size)
    actual = kernels.attention(pool, queries, BATCH, far)
    check_weighted(
        *(kernels, actual, expected, queries, BATCH, near),
        rules=Rules(),
        sinks=None,
    )


def gathered(pool: Array, pages: Pages) -> tuple[Array, Array]:
    """Returns the batch's keys and values, as they are meant."""
    shape = (int(BATCH.context_row_offsets[-1]), *LARGE_PAGES.row)
    keys, values = (np.full(shape, np.nan, np.float32) for _ in "kv")
    reference.gather(
        pool,
        keys,
        values,
        BATCH.context_row_offsets,
        pages.lookup_table,
        layer=LARGE_PAGES.layer,
    )
    return keys, values


def check_gathered(
    kernels: Kernels, pool: Buffer, pages: Pages, wanted: tuple[Array, Array]
) -> None:
    nothing = np.full_like(wanted[0], np.nan)
    actual = kernels.gather(pool, nothing, nothing, BATCH, pages)
    for got, want in zip(actual, wanted, strict=True):
        np.testing.assert_array_equal(got, want)
