"""Scattered pages that a GPU writes to pinned memory, and reads from there."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from max.driver import CPU, Buffer
from max.dtype import DType

from kernels.buffers import to_buffer
from kernels.models import CompiledKernels
from kvcache.core.interface import Move
from kvcache.manager.host import host_buffer
from kvcache.manager.moving import Run
from kvcache.manager.transfer import PageTransfer

UNTOUCHED = 0xA5


@st.composite
def scattered(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int]]]:
    """Draws pages on the device, pages on the host, and pairs of them."""
    count, host_count = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    sources = draw(st.permutations(range(count)))
    targets = draw(st.permutations(range(host_count)))
    num_pairs = draw(st.integers(1, min(count, host_count)))
    pairs = zip(sources[:num_pairs], targets[:num_pairs], strict=True)
    return count, host_count, list(pairs)


def singles(pairs: list[tuple[int, int]]) -> list[Run]:
    return [Run(source, target, 1) for source, target in pairs]


def contents(buffer: Buffer) -> Any:
    return buffer.to(CPU()).to_numpy()


@pytest.mark.parametrize("page", [(2, 1, 16, 1), (2, 3, 16, 40), (2, 1, 16384)])
@given(drawn=scattered(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_pages_arrive_and_come_back(
    compiled_kernels: CompiledKernels,
    page: tuple[int, ...],
    drawn: tuple[int, int, list[tuple[int, int]]],
    seed: int,
) -> None:
    device = compiled_kernels.device
    transfer = PageTransfer(compiled_kernels.models)
    count, host_count, pairs = drawn
    rng = np.random.default_rng(seed)
    original = rng.integers(0, 2**31, (count, *page), np.int32)
    pages = to_buffer(original, device)
    host = host_buffer((host_count, *page), DType.int32, device)
    empty = np.full((host_count, *page), UNTOUCHED, np.int32)
    host.inplace_copy_from(Buffer.from_numpy(empty))
    back = to_buffer(np.full_like(original, UNTOUCHED), device)

    transfer.copy(Move.OFFLOAD, pages, host, singles(pairs))
    there = [(target, source) for source, target in pairs]
    transfer.copy(Move.ONLOAD, back, host, singles(there))
    device.synchronize()

    sources, targets = np.array(pairs).T
    empty[targets] = original[sources]
    np.testing.assert_array_equal(contents(host), empty)
    expected = np.full_like(original, UNTOUCHED)
    expected[sources] = original[sources]
    np.testing.assert_array_equal(contents(back), expected)
