"""MAX's attention over our views against what attention means."""

import numpy as np

from kvcache import reference

from .batch import Batch
from .buffers import rounded
from .checks import seen_pool
from .models import Kernels
from .rules import CAUSAL

TOLERANCE = {"rtol": 2.0**-8, "atol": 0.006}
"""MAX rounds the weights to bfloat16, and then the result."""


def check_max_attention(kernels: Kernels, batch: Batch) -> None:
    """Checks the result where memory that is not the batch's is poison.

    The slots behind a sequence's last token are finite, as MAX's kernel for
    Hopper wants them. A run over NaN comes first: it leaves them in the GPU's
    shared memory, of which no kernel may use what it has not written.
    """
    configuration, rng = kernels.configuration, batch.rng()
    pool, pages = seen_pool(rng, configuration, batch, CAUSAL)
    table = pages.lookup_table
    used = table[table < pages.num_pages]
    pool[used] = np.where(np.isfinite(pool[used]), pool[used], 1)
    heads = configuration.num_q_heads, configuration.head_dim
    queries = rounded(
        3 * rng.standard_normal((batch.num_rows, *heads), np.float32),
        configuration.dtype,
    )
    expected = reference.attention(
        pool,
        queries,
        batch.input_row_offsets,
        batch.cache_lengths,
        table,
        layer=configuration.layer,
        scale=configuration.scale,
    )
    nothing = kernels.elements(np.full_like(pool, np.nan))
    kernels.attention(nothing, queries, batch, pages)

    actual = kernels.attention(kernels.elements(pool), queries, batch, pages)

    np.testing.assert_allclose(actual, expected, **TOLERANCE)
