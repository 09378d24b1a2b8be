"""Copies of whole pages inside the pool."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from max.driver import Buffer
from max.dtype import DType
from max.graph import Module
from tests.kernels.buffers import to_buffer

from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.layout import (
    DTYPE,
    GPU,
    HEAD_DIM,
    NUM_KV_HEADS,
)
from kvcache.graphs import copy_pages_graph
from kvcache.ops import CacheInputTypes

POOL_BYTES = 2**31


@dataclass(frozen=True, slots=True)
class PageKind:
    """Pages of one size."""

    name: str
    page_size: int
    num_layers: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one page."""
        return 2, self.num_layers, self.page_size, NUM_KV_HEADS, HEAD_DIM

    @property
    def num_bytes(self) -> int:
        """The bytes of one page."""
        return int(np.prod(self.shape)) * DTYPE.size_in_bytes

    @property
    def types(self) -> CacheInputTypes:
        """The types of a cache with such pages."""
        return CacheInputTypes(
            dtype=DTYPE,
            num_layers=self.num_layers,
            page_size=self.page_size,
            num_kv_heads=NUM_KV_HEADS,
            head_dim=HEAD_DIM,
            device=GPU,
        )

    def pool(self, bench: Bench, num_pages: int) -> Buffer:
        """Returns a pool whose pages differ in each place."""
        count = num_pages * self.num_bytes // 4
        words = np.arange(count, dtype=np.uint32) * np.uint32(2654435761)
        buffer = Buffer.from_numpy(words).to(bench.device)
        return buffer.view(DTYPE, [num_pages, *self.shape])


SMALL = PageKind("64KiB", page_size=16, num_layers=1)
LARGE = PageKind("2MiB", page_size=128, num_layers=4)


def add_graphs(module: Module) -> None:
    """Adds the copy for each kind of pages."""
    for kind in (SMALL, LARGE):
        name = f"copy_{kind.name}"
        copy_pages_graph(kind.types, name=name, module=module)


def measure(bench: Bench) -> None:
    """Checks and times copies of half a pool to the other half."""
    for kind in (LARGE, SMALL):
        num_pages = POOL_BYTES // kind.num_bytes
        order = np.random.default_rng(7).permutation(num_pages)
        pairs = order.astype(np.uint32).reshape(-1, 2)
        pool = kind.pool(bench, num_pages + 1)
        _check(bench, kind, pool, pairs)

        note = functools.partial(
            bench.note,
            f"copy {kind.name}",
            num_bytes=2 * len(pairs) * kind.num_bytes,
            page_size=kind.page_size,
        )
        inputs = pool, to_buffer(pairs, bench.device)
        us = bench.graph_us(f"copy_{kind.name}", *inputs, calls=1)
        note(who="kvcache", us=us)
        if bench.has_torch:
            note(who="torch", us=_torch_us(bench, pool, pairs))


def _check(
    bench: Bench, kind: PageKind, pool: Buffer, pairs: npt.NDArray[np.uint32]
) -> None:
    """Copies a few pages and looks at the whole pool."""
    few = pairs[:5]
    expected = _bits(pool)
    expected[few[:, 1]] = expected[few[:, 0]]
    model = bench.models[f"copy_{kind.name}"]
    model.execute(pool, to_buffer(few, bench.device))
    np.testing.assert_array_equal(_bits(pool), expected)


def _bits(pool: Buffer) -> npt.NDArray[np.int16]:
    return np.array(pool.view(DType.int16).to_numpy())


def _torch_us(
    bench: Bench, pool: Buffer, pairs: npt.NDArray[np.uint32]
) -> float:
    """Returns the time of torch's way: take the pages, then put them."""
    import torch

    pages = torch.from_dlpack(pool.view(DType.int16))
    sources, targets = torch.from_numpy(pairs.T.astype(np.int64)).cuda()
    return bench.torch_us(
        lambda: pages.index_copy_(0, targets, pages.index_select(0, sources))
    )
