"""Pages that go to pinned memory of the host and come back, scattered."""

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from max.driver import Buffer, batch_inplace_copy
from max.dtype import DType
from max.graph import Module
from tests.kernels.buffers import to_array, to_buffer

from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.layout import GPU
from kvcache.core.interface import Move
from kvcache.manager.copy_engines import CopyEngines
from kvcache.manager.host import host_buffer
from kvcache.manager.moving import Run, runs
from kvcache.manager.transfer import PageTransfer, add_transfer_graphs

PAGE_BYTES = 2**16
NUM_PAGES = 4096
IN_A_ROW = 4
"""Calls that are timed together, as a manager issues those of several pools."""


def add_graphs(module: Module) -> None:
    """Adds the two directions."""
    add_transfer_graphs(module, GPU)


def measure(bench: Bench) -> None:
    """Checks round trips; times both directions, and MAX's batched copies.

    `kvcache` is `PageTransfer.copy`, which works the addresses out each time;
    `kvcache kernel` is the launch that it falls back on, ready to go. A few
    calls are timed together.
    """
    shape = (NUM_PAGES, PAGE_BYTES)
    rng = np.random.default_rng(3)
    pages = to_buffer(rng.integers(0, 256, shape, np.uint8), bench.device)
    host = host_buffer(shape, DType.uint8, bench.device)
    order = [rng.permutation(NUM_PAGES) for _ in "st"]
    there = np.stack(order, axis=1).astype(np.uint32)
    back = np.ascontiguousarray(there[:, ::-1])
    engines = CopyEngines.of(bench.device)
    transfer = PageTransfer(bench.models, engines)
    for each in (transfer, PageTransfer(bench.models)):
        _check(bench, each, (pages, host), there)
    here_parts, host_parts = (
        [buffer[slice(page, page + 1), slice(None)] for page in places]
        for buffer, places in zip((pages, host), there.T.tolist(), strict=True)
    )
    for kind, pairs, targets, sources in (
        (Move.OFFLOAD, there, host_parts, here_parts),
        (Move.ONLOAD, back, here_parts, host_parts),
    ):
        name = kind.name.lower()
        inputs = pages, host, to_buffer(pairs, bench.device)
        kernel = bench.models[f"{name}_pages"]
        ways = {
            "kvcache": (transfer.copy, (kind, pages, host, _runs(pairs))),
            "kvcache kernel": (kernel.execute, inputs),
            "max": (batch_inplace_copy, (targets, sources)),
        }
        if engines is None:
            del ways["kvcache"]
        for who, (copy, arguments) in ways.items():
            run = functools.partial(_call, copy, arguments)
            bench.note(
                f"{name} 64KiB",
                who,
                bench.device_us(run) / IN_A_ROW,
                num_bytes=NUM_PAGES * PAGE_BYTES,
                ceiling=name,
            )


def _call(copy: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Issues the calls that are timed together."""
    for _ in range(IN_A_ROW):
        copy(*arguments)


def _check(
    bench: Bench,
    transfer: PageTransfer,
    buffers: tuple[Buffer, Buffer],
    there: npt.NDArray[np.uint32],
) -> None:
    """Sends the pages to the host, loads them back, and compares."""
    (pages, host), device = buffers, bench.device
    contents = to_array(pages)
    sources, targets = there.T
    host.inplace_copy_from(Buffer.zeros(host.shape, DType.uint8, device))
    transfer.copy(Move.OFFLOAD, pages, host, _runs(there))
    device.synchronize()  # Reading pinned memory waits for nothing.
    np.testing.assert_array_equal(to_array(host)[targets], contents[sources])
    back = Buffer.zeros(pages.shape, DType.uint8, device)
    transfer.copy(Move.ONLOAD, back, host, _runs(there[:, ::-1]))
    np.testing.assert_array_equal(to_array(back), contents)


def _runs(pairs: npt.NDArray[np.uint32]) -> list[Run]:
    return list(runs(pairs.tolist()))
