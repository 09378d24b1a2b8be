"""The cache that is measured: Llama 3 8B's heads, bfloat16, a few layers."""

from dataclasses import dataclass

import numpy as np
from max._kv_cache_ops import mha_decode_num_partitions
from max.driver import Buffer, Device
from max.dtype import DType
from max.graph import DeviceRef
from tests.kernels.batch import Batch, Pages
from tests.kernels.buffers import to_buffer

from kvcache.cache_types import CacheInputTypes

GPU = DeviceRef.GPU()
DTYPE = DType.bfloat16
NUM_LAYERS = 16
"""The layers in a graph: a replay does the same work once for each."""
NUM_KV_HEADS = 8
NUM_Q_HEADS = 32
HEAD_DIM = 128
NUM_HEADS = NUM_Q_HEADS + 2 * NUM_KV_HEADS
ROW_BYTES = 2 * NUM_KV_HEADS * HEAD_DIM * DTYPE.size_in_bytes
"""A token's keys and values of one layer."""
PAGE_SIZES = (16, 128)
MAX_PAGE_SIZE = 128
"""The page size that MAX's own kernels are made for."""

Lengths = list[tuple[int, int]]
"""Cached and new tokens of each sequence."""


def cache_types(page_size: int) -> CacheInputTypes:
    """Returns the types of the cache's four inputs."""
    return CacheInputTypes(
        dtype=DTYPE,
        num_layers=NUM_LAYERS,
        page_size=page_size,
        num_kv_heads=NUM_KV_HEADS,
        head_dim=HEAD_DIM,
        device=GPU,
    )


def page_shape(page_size: int) -> tuple[int, ...]:
    """Returns the shape of one page of all layers."""
    return 2, NUM_LAYERS, page_size, NUM_KV_HEADS, HEAD_DIM


def decode(batch_size: int) -> Lengths:
    """Returns a step of one new token a sequence behind drawn lengths."""
    rng = np.random.default_rng(batch_size)
    return [(cached, 1) for cached in rng.integers(0, 127, batch_size).tolist()]


def prefill(batch_size: int, length: int) -> Lengths:
    """Returns a step that begins every sequence."""
    return [(0, length)] * batch_size


@dataclass(frozen=True, slots=True)
class Step:
    """One step's batch on the device, the pool excepted."""

    batch: Batch
    pages: Pages
    tables: tuple[Buffer, Buffer, Buffer]
    """Cache lengths, lookup table, and on the host the longest lengths."""
    offsets: Buffer
    """Where the new tokens of each sequence start."""
    context_offsets: Buffer
    """Where each sequence starts if all its tokens stand in a row."""

    @classmethod
    def of(
        cls,
        lengths: Lengths,
        page_size: int,
        device: Device,
        *,
        reads_all: bool = False,
    ) -> "Step":
        """Lays out a batch's pages at random.

        Args:
            lengths: Cached and new tokens of each sequence.
            page_size: Tokens per page.
            device: Where the inputs go.
            reads_all: Whether cached tokens have pages too.
        """
        columns = -(-max(map(sum, lengths)) // page_size)
        batch = Batch(
            lengths=lengths,
            page_size=page_size,
            seed=1,
            spare_columns=-columns % 8,  # MAX's kernels read eight at once.
            stray_is_null=True,
        )
        pages = batch.read() if reads_all else batch.written()
        lengths_table = to_buffer(batch.cache_lengths, device)
        table = to_buffer(pages.lookup_table, device)
        return cls(
            batch,
            pages,
            (lengths_table, table, Buffer.from_numpy(batch.max_lengths)),
            to_buffer(batch.input_row_offsets, device),
            to_buffer(batch.context_row_offsets, device),
        )

    def empty_pool(self, device: Device) -> Buffer:
        """Returns a pool with room for the batch's pages."""
        shape = (self.pages.num_pages + 1, *page_shape(self.batch.page_size))
        return Buffer.zeros(shape, DTYPE, device)

    def drawn_pool(self, device: Device) -> Buffer:
        """Returns such a pool with drawn keys and values.

        Zeros would be read faster: a chip that changes few bits needs less
        power, and its clock is higher.
        """
        shape = page_shape(self.batch.page_size)
        return repeated(drawn(device, *shape), self.pages.num_pages + 1)

    def for_max(self, device: Device) -> tuple[Buffer, ...]:
        """Returns what MAX's cache takes behind the pool.

        The number of parts that MAX splits a context into is MAX's own choice.
        """
        new, context = (int(length) for length in self.batch.max_lengths[0])
        stride = int(np.prod(page_shape(self.batch.page_size)))
        batch_size = len(self.batch.lengths)
        parts = mha_decode_num_partitions(
            *(batch_size, context, NUM_KV_HEADS, device)
        )
        metadata = [batch_size, new, parts, context]
        return (
            *self.tables[:2],
            Buffer.from_numpy(np.array([new], np.uint32)),
            Buffer.from_numpy(np.array([context], np.uint32)),
            Buffer.from_numpy(np.array([stride], np.int64)),
            Buffer.from_numpy(np.array(metadata, np.int64)),
        )


def drawn(device: Device, *shape: int) -> Buffer:
    """Draws finite bfloat16 numbers below 2."""
    bits = np.random.default_rng(0).integers(0, 0x8000, shape, np.uint16)
    bits = (bits & 0x3FFF) | (bits & 0x4000) << 1
    return Buffer.from_numpy(bits).view(DTYPE).to(device)


def repeated(page: Buffer, num_pages: int) -> Buffer:
    """Returns a pool of pages that are all alike."""
    pool = Buffer(page.dtype, (num_pages, *page.shape), page.device)
    num_bytes = page.num_elements * page.dtype.size_in_bytes
    rows = pool.view(DType.uint8, (num_pages, num_bytes))
    row = page.view(DType.uint8, (1, num_bytes))
    for index in range(num_pages):
        rows[slice(index, index + 1), slice(None)].inplace_copy_from(row)
    return pool
