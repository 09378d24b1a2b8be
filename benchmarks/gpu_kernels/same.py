"""Compares what was stored with what it means."""

from collections.abc import Mapping

import numpy as np
from max.driver import Buffer
from tests.kernels.buffers import to_array

from benchmarks.gpu_kernels.layout import NUM_LAYERS, Step, page_shape
from kvcache import reference


def check_pools(
    step: Step, keys: Buffer, values: Buffer, pools: Mapping[str, Buffer]
) -> None:
    """Holds pools against the reference, every layer of every page.

    Args:
        step: The batch that was stored, into pools of zeros.
        keys: Its keys.
        values: Its values.
        pools: What became of the pools, by who stored.

    Raises:
        AssertionError: If a pool is another one.
    """
    batch, pages = step.batch, step.pages
    shape = (pages.num_pages + 1, *page_shape(batch.page_size))
    expected = np.zeros(shape, np.float32)
    for layer in range(NUM_LAYERS):
        reference.store(
            expected,
            to_array(keys),
            to_array(values),
            batch.input_row_offsets,
            batch.cache_lengths,
            pages.lookup_table,
            layer=layer,
        )
    for who, pool in pools.items():
        np.testing.assert_array_equal(to_array(pool), expected, err_msg=who)
