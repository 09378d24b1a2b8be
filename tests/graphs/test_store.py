import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import (
    REGIMES,
    Batch,
    batches,
    beyond_the_caches,
    regimes,
)
from kernels.buffers import to_array
from kernels.checks import check_store, poisoned_pool
from kernels.configuration import LARGE_PAGES, ONNX_FLOAT32
from kernels.models import CompiledKernels, Kernels
from kvcache import reference


@pytest.mark.parametrize("regime", REGIMES)
def test_store_equals_reference_at_the_edges(
    kernels: Kernels, regime: str
) -> None:
    check_store(kernels, regimes(kernels.configuration.page_size)[regime])


@given(st.data())
@settings(max_examples=60)
def test_store_equals_reference(kernels: Kernels, data: st.DataObject) -> None:
    drawn = batches(kernels.configuration, longest_new=300, far=True)
    check_store(kernels, data.draw(drawn))


def test_store_past_the_caches_equals_reference(
    compiled_kernels: CompiledKernels,
) -> None:
    check_store(
        compiled_kernels.of(LARGE_PAGES), beyond_the_caches(LARGE_PAGES)
    )


@pytest.mark.parametrize("layer", range(ONNX_FLOAT32.num_layers))
def test_store_takes_its_layer_at_run_time(
    compiled_kernels: CompiledKernels, layer: int
) -> None:
    kernels = compiled_kernels.of(ONNX_FLOAT32)
    batch = Batch(lengths=[(15, 3), (0, 1)], page_size=16)
    pages = batch.written()
    rows = np.ones((batch.num_rows, *ONNX_FLOAT32.row), np.float32)
    expected = poisoned_pool(ONNX_FLOAT32, batch, pages.num_pages)
    pool = kernels.elements(expected)
    reference.store(
        expected,
        rows,
        rows,
        batch.input_row_offsets,
        batch.cache_lengths,
        pages.lookup_table,
        layer=layer,
    )

    kernels.store_to_layer(pool, rows, batch, pages, layer=layer)

    np.testing.assert_array_equal(to_array(pool), expected)
