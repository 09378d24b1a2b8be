from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, TensorType

from kernels.configuration import LARGE_PAGES, ONNX_FLOAT32, Configuration
from kernels.models import CompiledKernels, Kernels
from kernels.rope_shift import (
    EPSILON,
    check_compaction,
    check_rope_shift,
    error_of_many_shifts,
)
from kvcache import ops


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_rope_shift_equals_reference(kernels: Kernels, seed: int) -> None:
    for rotation in kernels.configuration.rotations:
        check_rope_shift(kernels, rotation, seed=seed)


def test_shifted_context_is_as_computed_anew(kernels: Kernels) -> None:
    for rotation in kernels.configuration.rotations:
        check_compaction(kernels, rotation)


@pytest.mark.parametrize(
    "configuration", [ONNX_FLOAT32, LARGE_PAGES], ids=lambda each: each.dtype
)
def test_error_of_many_shifts_is_bounded(
    compiled_kernels: CompiledKernels,
    configuration: Configuration,
    record_property: Callable[[str, object], None],
) -> None:
    kernels = compiled_kernels.of(configuration)
    for num_shifts in (1, 16, 256):
        rotation = kernels.configuration.rotations[0]
        largest, mean = error_of_many_shifts(kernels, rotation, num_shifts)
        record_property(f"largest_{num_shifts}", largest)
        record_property(f"mean_{num_shifts}", mean)
        # Slow pairs hardly turn in one shift, and rounding takes back the same
        # again and again: the error grows with the number of shifts.
        assert mean < num_shifts * EPSILON[kernels.configuration.dtype]


@pytest.mark.parametrize(
    ("rope_dim", "begin"), [(0, 0), (3, 0), (10, 0), (8, 2), (4, -2)]
)
def test_rotated_part_must_be_even_and_in_the_head(
    rope_dim: int, begin: int
) -> None:
    with pytest.raises(ValueError, match="rope_dim must be even and, from"):
        build(rope_dim, 4, begin=begin)


def test_shifts_must_have_four_columns() -> None:
    with pytest.raises(ValueError, match=r"shifts must be \[rows, \[4\]\]"):
        build(8, 3)


def test_quantised_pages_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted plain pages, got int8"):
        build(8, 4, dtype=DType.int8)


def build(
    rope_dim: int,
    columns: int,
    *,
    begin: int = 0,
    dtype: DType = DType.float32,
) -> None:
    cpu = DeviceRef.CPU()
    types = [
        BufferType(dtype, ["pages", 2, 1, 16, 3, 8], cpu),
        TensorType(DType.float32, ["rows", rope_dim], cpu),
        TensorType(DType.uint32, ["shifts", columns], cpu),
    ]
    with Graph("refused", input_types=types) as graph:
        pool, freqs, shifts = graph.inputs
        ops.rope_shift(pool.buffer, freqs.tensor, shifts.tensor, begin=begin)
        graph.output()
