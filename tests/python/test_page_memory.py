"""Zeroed memory for pages."""

import gc

import numpy as np
import pytest
from max.driver import CPU
from max.dtype import DType

from kvcache.page_memory import LINE_BYTES, zeroed_buffer


@pytest.mark.parametrize(
    "dtype", [DType.float32, DType.bfloat16, DType.float8_e4m3fn, DType.int8]
)
@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (2, 1 << 20)])
def test_has_zeros_from_a_line_on(dtype: DType, shape: tuple[int, ...]) -> None:
    buffer = zeroed_buffer(shape, dtype, CPU())

    assert buffer.shape == shape
    assert buffer.dtype == dtype
    assert buffer._data_ptr() % LINE_BYTES == 0
    size = int(np.prod(shape)) * dtype.size_in_bytes
    assert not buffer.view(DType.uint8, (size,)).to_numpy().any()


def test_lives_as_long_as_its_buffer() -> None:
    buffers = [zeroed_buffer((1 << 20,), DType.uint8, CPU()) for _ in range(8)]
    for i, buffer in enumerate(buffers):
        buffer.to_numpy()[:] = i
    del buffer
    gc.collect()
    later = np.full(16 << 20, 99, np.uint8)

    for i, buffer in enumerate(buffers):
        assert (buffer.to_numpy() == i).all()
    assert (later == 99).all()


def test_of_nothing_is_empty() -> None:
    assert zeroed_buffer((0, 4), DType.float32, CPU()).shape == (0, 4)
