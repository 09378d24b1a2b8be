"""Pages that go to pinned memory of the host and come back, scattered."""

import functools

import numpy as np
import numpy.typing as npt
from max.driver import Buffer, batch_inplace_copy
from max.dtype import DType
from max.graph import Module
from tests.kernels.buffers import to_array, to_buffer

from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.layout import GPU
from kvcache.graphs import transfer_pages_graph
from kvcache.manager.host import host_buffer

PAGE_BYTES = 2**16
NUM_PAGES = 4096


def add_graphs(module: Module) -> None:
    """Adds the two directions."""
    for name, to_host in (("offload", True), ("onload", False)):
        transfer_pages_graph(GPU, to_host=to_host, name=name, module=module)


def measure(bench: Bench) -> None:
    """Checks a round trip; times both directions, and MAX's batched copies."""
    shape = (NUM_PAGES, PAGE_BYTES)
    rng = np.random.default_rng(3)
    pages = to_buffer(rng.integers(0, 256, shape, np.uint8), bench.device)
    host = host_buffer(shape, DType.uint8, bench.device)
    order = [rng.permutation(NUM_PAGES) for _ in "st"]
    there = np.stack(order, axis=1).astype(np.uint32)
    back = np.ascontiguousarray(there[:, ::-1])
    _check(bench, pages, host, there)
    here_parts, host_parts = (
        [buffer[slice(page, page + 1), slice(None)] for page in places]
        for buffer, places in zip((pages, host), there.T.tolist(), strict=True)
    )
    for name, pairs, targets, sources in (
        ("offload", there, host_parts, here_parts),
        ("onload", back, here_parts, host_parts),
    ):
        inputs = pages, host, to_buffer(pairs, bench.device)
        ours = functools.partial(bench.models[name].execute, *inputs)
        theirs = functools.partial(batch_inplace_copy, targets, sources)
        for who, run in (("kvcache", ours), ("max", theirs)):
            bench.note(
                f"{name} 64KiB",
                who,
                bench.device_us(run),
                num_bytes=NUM_PAGES * PAGE_BYTES,
                ceiling=name,
            )


def _check(
    bench: Bench, pages: Buffer, host: Buffer, there: npt.NDArray[np.uint32]
) -> None:
    """Sends the pages to the host, loads them back, and compares."""
    device, contents = bench.device, to_array(pages)
    sources, targets = there.T
    bench.models["offload"].execute(pages, host, to_buffer(there, device))
    device.synchronize()  # Reading pinned memory waits for nothing.
    np.testing.assert_array_equal(to_array(host)[targets], contents[sources])
    back = Buffer.zeros(pages.shape, DType.uint8, device)
    pairs = np.ascontiguousarray(there[:, ::-1])
    bench.models["onload"].execute(back, host, to_buffer(pairs, device))
    np.testing.assert_array_equal(to_array(back), contents)
