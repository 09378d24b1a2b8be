"""A pool of more than 2**32 elements: every op on its last pages."""

import math

import numpy as np
from max.driver import Buffer

from kvcache import reference

from .batch import Batch, Pages
from .buffers import rounded, to_array
from .checks import TOLERANCE, drawn
from .configuration import LARGE_PAGES
from .models import Kernels

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
    far = Pages(NEAR_TABLE + np.uint32(FIRST_FAR_PAGE), NUM_PAGES)
    near = Pages(NEAR_TABLE, len(NEAR_TABLE.flat))
    rows = (BATCH.num_rows, *LARGE_PAGES.row)
    keys, values = (drawn(rng, LARGE_PAGES, *rows) for _ in "kv")
    expected = np.zeros((near.num_pages + 1, *LARGE_PAGES.page), np.float32)
    reference.store(
        expected,
        keys,
        values,
        BATCH.input_row_offsets,
        BATCH.cache_lengths,
        near.lookup_table,
        layer=LARGE_PAGES.layer,
    )

    kernels.store(pool, keys, values, BATCH, far)

    check_readers(kernels, pool, expected, near=near, far=far)
    copies = [(FIRST_FAR_PAGE + 1, 1), (FIRST_FAR_PAGE + 2, 3)]
    kernels.copy_pages(pool, np.array(copies, np.uint32))
    for source, target in copies:
        copied = to_array(pool[target : target + 1])
        np.testing.assert_array_equal(
            copied[0], expected[source - FIRST_FAR_PAGE]
        )
    assert not to_array(pool[0:1]).any()
    assert not to_array(pool[2:3]).any()


def check_readers(
    kernels: Kernels,
    pool: Buffer,
    expected: np.ndarray,
    *,
    near: Pages,
    far: Pages,
) -> None:
    rng = np.random.default_rng(1)
    rows = (int(BATCH.context_row_offsets[-1]), *LARGE_PAGES.row)
    nothing = np.full(rows, np.nan, np.float32)
    gathered = nothing.copy(), nothing.copy()
    reference.gather(
        expected,
        *gathered,
        BATCH.context_row_offsets,
        near.lookup_table,
        layer=LARGE_PAGES.layer,
    )
    for actual, wanted in zip(
        kernels.gather(pool, nothing, nothing, BATCH, far),
        gathered,
        strict=True,
    ):
        np.testing.assert_array_equal(actual, wanted)
    heads = LARGE_PAGES.num_q_heads, LARGE_PAGES.head_dim
    queries = rounded(
        rng.standard_normal((BATCH.num_rows, *heads), np.float32), "bfloat16"
    )
    attended = reference.attention(
        expected,
        queries,
        BATCH.input_row_offsets,
        BATCH.cache_lengths,
        near.lookup_table,
        layer=LARGE_PAGES.layer,
        scale=LARGE_PAGES.scale,
    )
    np.testing.assert_allclose(
        kernels.attention(pool, queries, BATCH, far),
        attended,
        **TOLERANCE["bfloat16"],
    )
