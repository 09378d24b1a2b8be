"""Scattered pages that go from a GPU to pinned memory, and come back."""

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
from kvcache.manager.copy_engines import CopyEngines
from kvcache.manager.host import host_buffer
from kvcache.manager.moving import Run, runs
from kvcache.manager.transfer import PageTransfer

UNTOUCHED = 0xA5
MANY = 1024
LARGE = 2**16


@pytest.fixture(scope="module")
def engines(compiled_kernels: CompiledKernels) -> CopyEngines:
    engines = CopyEngines.of(compiled_kernels.device)
    if engines is None:
        pytest.skip("the driver does not copy in batches")
    return engines


@pytest.fixture(scope="module", params=["engines", "kernel"])
def copies(
    compiled_kernels: CompiledKernels, request: pytest.FixtureRequest
) -> CopyEngines | PageTransfer:
    """Moves all pages in one of the two ways, however few they are."""
    if request.param == "kernel":
        return PageTransfer(compiled_kernels.models)
    return request.getfixturevalue("engines")  # type: ignore[no-any-return]


@st.composite
def scattered(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int]]]:
    """Draws pages on the device, pages on the host, and pairs of them."""
    count, host_count = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    sources = draw(st.permutations(range(count)))
    targets = draw(st.permutations(range(host_count)))
    num_pairs = draw(st.integers(1, min(count, host_count)))
    pairs = zip(sources[:num_pairs], targets[:num_pairs], strict=True)
    return count, host_count, list(pairs)


def contents(buffer: Buffer) -> Any:
    return buffer.to(CPU()).to_numpy()


@pytest.mark.parametrize("page", [(2, 1, 16, 1), (2, 3, 16, 40), (2, 1, 16384)])
@given(drawn=scattered(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_pages_arrive_and_come_back(
    compiled_kernels: CompiledKernels,
    copies: CopyEngines | PageTransfer,
    page: tuple[int, ...],
    drawn: tuple[int, int, list[tuple[int, int]]],
    seed: int,
) -> None:
    device = compiled_kernels.device
    count, host_count, pairs = drawn
    rng = np.random.default_rng(seed)
    original = rng.integers(0, 2**31, (count, *page), np.int32)
    pages = to_buffer(original, device)
    host = host_buffer((host_count, *page), DType.int32, device)
    empty = np.full((host_count, *page), UNTOUCHED, np.int32)
    host.inplace_copy_from(Buffer.from_numpy(empty))
    back = to_buffer(np.full_like(original, UNTOUCHED), device)

    copies.copy(Move.OFFLOAD, pages, host, list(runs(sorted(pairs))))
    there = [(target, source) for source, target in pairs]
    copies.copy(Move.ONLOAD, back, host, list(runs(sorted(there))))
    device.synchronize()

    sources, targets = np.array(pairs).T
    empty[targets] = original[sources]
    np.testing.assert_array_equal(contents(host), empty)
    expected = np.full_like(original, UNTOUCHED)
    expected[sources] = original[sources]
    np.testing.assert_array_equal(contents(back), expected)


@pytest.mark.parametrize("page_bytes", [1, 24, 1000])
@given(drawn=scattered(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_engines_move_pages_that_the_kernel_cannot(
    compiled_kernels: CompiledKernels,
    engines: CopyEngines,
    page_bytes: int,
    drawn: tuple[int, int, list[tuple[int, int]]],
    seed: int,
) -> None:
    device = compiled_kernels.device
    count, host_count, pairs = drawn
    rng = np.random.default_rng(seed)
    original = rng.integers(0, 256, (count, page_bytes), np.uint8)
    expected = np.full((host_count, page_bytes), UNTOUCHED, np.uint8)
    pages = to_buffer(original, device)
    host = host_buffer(expected.shape, DType.uint8, device)
    host.inplace_copy_from(Buffer.from_numpy(expected.copy()))
    engines.copy(Move.OFFLOAD, pages, host, list(runs(pairs)))
    device.synchronize()
    sources, targets = np.array(pairs).T
    expected[targets] = original[sources]
    np.testing.assert_array_equal(contents(host), expected)


def test_copies_keep_their_place_in_the_default_queue(
    compiled_kernels: CompiledKernels, copies: CopyEngines | PageTransfer
) -> None:
    """Pages are written, moved and overwritten without any wait of the host."""
    device = compiled_kernels.device
    shape = MANY, LARGE
    rng = np.random.default_rng(5)
    pages, seen = (Buffer.zeros(shape, DType.uint8, device) for _ in "ps")
    busy, other = (Buffer.zeros((2**31,), DType.uint8, device) for _ in "bo")
    host = host_buffer(shape, DType.uint8, device)
    order = rng.permutation(MANY).tolist()
    there = [Run(page, place, 1) for page, place in enumerate(order)]
    back = [Run(run.target, run.source, 1) for run in there]
    numbers = [rng.integers(0, 256, shape, np.uint8) for _ in range(4)]
    written = [to_buffer(each, device) for each in numbers]
    junk = to_buffer(np.full(shape, UNTOUCHED, np.uint8), device)
    for wanted, source in zip(numbers, written, strict=True):
        device.synchronize()
        for _ in range(20):  # Takes longer than issuing the rest.
            busy.inplace_copy_from(other)
        pages.inplace_copy_from(source)
        copies.copy(Move.OFFLOAD, pages, host, there)
        pages.inplace_copy_from(junk)
        copies.copy(Move.ONLOAD, pages, host, back)
        seen.inplace_copy_from(pages)
        copies.copy(Move.OFFLOAD, junk, host, there)
        np.testing.assert_array_equal(contents(seen), wanted)


def test_a_transfer_of_many_bytes_takes_the_engines(
    compiled_kernels: CompiledKernels,
    engines: CopyEngines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def launch(*_: Any) -> None:
        pytest.fail("the kernel was launched")

    device = compiled_kernels.device
    transfer = PageTransfer(compiled_kernels.models, engines)
    monkeypatch.setattr(transfer, "_launch", launch)
    rng = np.random.default_rng(6)
    original = rng.integers(0, 256, (MANY, LARGE), np.uint8)
    pages = to_buffer(original, device)
    host = host_buffer(original.shape, DType.uint8, device)
    order = rng.permutation(MANY).tolist()
    chosen = [Run(page, place, 1) for page, place in enumerate(order)]
    transfer.copy(Move.OFFLOAD, pages, host, chosen)
    device.synchronize()
    np.testing.assert_array_equal(contents(host)[order], original)
