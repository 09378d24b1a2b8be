"""One pool from op to op: what nobody wrote is +infinity, and stays unseen."""

import numpy as np
from max.driver import Buffer

from .batch import Batch, Indices, Pages
from .buffers import to_array
from .checks import drawn, poisoned_freqs, poisoned_pool
from .models import Kernels


def check_canary(kernels: Kernels) -> None:
    """Stores, gathers, attends and copies; no output may hold an infinity.

    Args:
        kernels: Those of one configuration.
    """
    configuration = kernels.configuration
    page = configuration.page_size
    batch = Batch(
        lengths=[(0, page + 3), (0, 0), (0, 1), (0, 2 * page)],
        page_size=page,
        spare_pages=6,
        spare_columns=2,
        poison=np.inf,
    )
    pages = batch.read()
    rng = batch.rng()
    rows = drawn(rng, configuration, batch.num_rows, *configuration.row)
    empty = poisoned_pool(configuration, batch, pages.num_pages)
    pool = kernels.elements(empty)
    kernels.store(pool, rows, rows, batch, pages)
    check_outputs(kernels, pool, batch, pages)

    used = used_pages(pages)
    spare = np.setdiff1d(np.arange(pages.num_pages, dtype=np.uint32), used)
    spare = spare[: len(used)]
    kernels.copy_pages(pool, np.stack([used, spare], axis=1))
    moved = dict(zip(used.tolist(), spare.tolist(), strict=True))
    table = np.vectorize(lambda x: moved.get(x, x), otypes=[np.uint32])
    copied = Pages(table(pages.lookup_table), pages.num_pages)
    check_outputs(kernels, pool, batch, copied)

    heads = configuration.num_q_heads + 2 * configuration.num_kv_heads
    width = heads * configuration.head_dim
    for rotation in configuration.rotations:
        pool = kernels.elements(empty)
        queries = kernels.rope_store(
            pool,
            drawn(rng, configuration, batch.num_rows, width),
            poisoned_freqs(rng, batch, rotation.rope_dim),
            batch,
            pages,
            rotation=rotation,
        )
        assert np.isfinite(queries).all()
        check_outputs(kernels, pool, batch, pages)


def check_outputs(
    kernels: Kernels, pool: Buffer, batch: Batch, pages: Pages
) -> None:
    """Checks what reads the pool, and that no other memory was written."""
    configuration, rng = kernels.configuration, batch.rng()
    shape = (int(batch.context_row_offsets[-1]), *configuration.row)
    nothing = np.full(shape, np.inf, np.float32)
    for gathered in kernels.gather(pool, nothing, nothing, batch, pages):
        assert np.isfinite(gathered).all()
    heads = configuration.num_q_heads, configuration.head_dim
    queries = drawn(rng, configuration, batch.num_rows, *heads)
    assert np.isfinite(kernels.attention(pool, queries, batch, pages)).all()
    written = np.isfinite(to_array(pool))
    tokens = written.any(axis=(4, 5)).sum(axis=(0, 3))
    assert not np.delete(tokens, configuration.layer, axis=1).any()
    assert not written[-1].any()


def used_pages(pages: Pages) -> Indices:
    """Returns the pages that hold the batch's tokens."""
    table = pages.lookup_table
    return np.unique(table[table < pages.num_pages])
