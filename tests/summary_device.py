"""A stand-in for a device that keeps keys, and summaries of whole blocks.

Keys and values of a position depend on the salt and on all tokens up to there.
A step writes them, and the summaries of the blocks that it completes. In the
place of the block that it leaves incomplete, and of those behind, it writes
NaN: so may a device that summarises too much, or nothing at all.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcache import KVCacheParams, RaggedKVCacheInputs, Request
from kvcache.manager.quantized_inputs import QuantizedKVCacheInputs
from kvcache.summaries import Summaries, SummaryField

Array = npt.NDArray[Any]
BLOCK_SIZE = 16


def summaries_of(head_dim: int) -> Summaries:
    """What `summarise` gives."""
    return Summaries(
        BLOCK_SIZE,
        (
            SummaryField("mean", 1, head_dim, "float32"),
            SummaryField("envelope", 2, head_dim, "float16"),
        ),
    )


def summarise(keys: Array) -> list[Array]:
    """Returns the fields of blocks of keys `[..., block_size, head_dim]`."""
    mean = keys.mean(axis=-2, keepdims=True)
    envelope = np.stack([keys.max(axis=-2), keys.min(axis=-2)], axis=-2)
    return [mean, envelope.astype(np.float16)]


def contents(request: Request, *, shard: int, shape: tuple[int, ...]) -> Array:
    """Returns what positions hold, int8 `[num_tokens, *shape]`."""
    key = zlib.crc32(repr((request.cache_salt, shard)).encode())
    keys = []
    for token in request.tokens.all.tolist():
        key = zlib.crc32(token.to_bytes(4, "little"), key)
        keys.append(key)
    first = np.array(keys, np.uint64)[:, None]
    steps = np.arange(np.prod(shape), dtype=np.uint64) * np.uint64(2654435761)
    numbers = (first + steps) >> np.uint64(9)
    codes = (numbers % np.uint64(255)).astype(np.int16) - 127
    return codes.astype(np.int8).reshape(-1, *shape)


class SummaryDevice:
    """One device's pools as arrays.

    Args:
        params: Shape of a token's keys and values.
        inputs: What a manager fetched for the device.
        shard: Which device of its replica it is.
    """

    def __init__(
        self, params: KVCacheParams, inputs: RaggedKVCacheInputs, shard: int
    ) -> None:
        assert params.summaries is not None
        assert params.page_size is not None
        self.shard = shard
        self.page_size = params.page_size
        self.block_size = params.summaries.block_size
        self._inputs = inputs

    @property
    def pools(self) -> list[Array]:
        """New views, which wait for the copies that were issued."""
        scales = []
        if isinstance(self._inputs, QuantizedKVCacheInputs):
            scales = [self._inputs.scales]
        pools = [self._inputs.blocks, *scales, *self._inputs.summaries]
        return [pool.to_numpy() for pool in pools]

    @property
    def fields(self) -> list[Array]:
        """The pools of the summaries."""
        return self.pools[-len(self._inputs.summaries) :]

    def compute(self, request: Request, row: Sequence[int], start: int) -> None:
        """Writes the positions from `start` to the processed ones.

        Args:
            request: Whose tokens they are.
            row: Its pages.
            start: Where its active tokens began.
        """
        end = request.tokens.processed_length
        place = self._place(row, np.arange(start, end))
        for pool, values in self._wanted(request):
            pool[place] = values[start:end]
        blocks = np.arange(start // self.block_size, end // self.block_size)
        whole = summarise(self._keys(row, blocks))
        for field, values in zip(self.fields, whole, strict=True):
            field[self._block_place(row, blocks)] = values
        if end % self.page_size:
            tail = end % self.page_size // self.block_size
            for field in self.fields:
                field[row[end // self.page_size], :, tail:] = np.nan

    def check(self, request: Request, row: Sequence[int]) -> None:
        """Looks at what is processed, and at the summaries of whole blocks."""
        end = request.tokens.processed_length
        place = self._place(row, np.arange(end))
        for pool, values in self._wanted(request):
            np.testing.assert_array_equal(pool[place], values[:end])
        blocks = np.arange(end // self.block_size)
        afresh = summarise(self._keys(row, blocks))
        for field, values in zip(self.fields, afresh, strict=True):
            found = field[self._block_place(row, blocks)]
            assert np.isfinite(values).all()
            np.testing.assert_array_equal(found, values)

    def poison(self, pages: Sequence[int]) -> None:
        """Fills pages, and all that goes with them, with what nobody wants."""
        for pool in self.pools:
            rubbish = np.nan if np.issubdtype(pool.dtype, np.floating) else 77
            pool[list(pages)] = rubbish

    def _wanted(self, request: Request) -> list[tuple[Array, Array]]:
        """Returns the pools of keys and values, and what positions hold."""
        blocks, *scales = self.pools[: -len(self._inputs.summaries)]
        _, kv, layers, _, heads, head_dim = blocks.shape
        shape = kv, layers, heads, head_dim
        codes = contents(request, shard=self.shard, shape=shape)
        if not scales:
            return [(blocks, (codes / np.float32(8)).astype(blocks.dtype))]
        each = (codes[..., :1].astype(np.float32) + 129) / 64
        return [(blocks, codes), (scales[0], each)]

    def _place(self, row: Sequence[int], positions: Array) -> Any:
        """Indexes a pool of tokens, to `[positions, kv, layers, ...]`."""
        pages = np.array(row, np.intp)[positions // self.page_size]
        everything = slice(None)
        return pages, everything, everything, positions % self.page_size

    def _block_place(self, row: Sequence[int], blocks: Array) -> Any:
        """Indexes a pool of summaries, to `[blocks, layers, ...]`."""
        pages = np.array(row, np.intp)[
            blocks * self.block_size // self.page_size
        ]
        places = blocks % (self.page_size // self.block_size)
        return pages, slice(None), places

    def _keys(self, row: Sequence[int], blocks: Array) -> Array:
        """Returns keys, `[blocks, layers, heads, block_size, head_dim]`."""
        size = self.block_size
        positions = blocks[:, None] * size + np.arange(size)
        place = self._place(row, positions)
        pools = self.pools[: -len(self._inputs.summaries)]
        first, *scales = (pool[place][:, :, 0] for pool in pools)
        keys = first.astype(np.float32)
        for each in scales:
            keys = keys * each
        return keys.transpose(0, 2, 3, 1, 4)
