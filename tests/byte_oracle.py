"""A stand-in for a model that writes real bytes into the pools on the CPU.

Each slot of each page on each shard gets bytes that only its namespace, the
tokens up to its position and its shard give. So a page that is shared, copied,
lost or given away wrongly shows at the next look, whoever moved it.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from page_oracle import content

Words = npt.NDArray[np.uint32]


def words(context: Any, position: int, shard: int, like: Words) -> Words:
    """Returns what a slot holds, in the shape of the slot `like`."""
    key = repr((shard, content(context, position))).encode()
    first = zlib.crc32(key)
    steps = np.arange(like.size, dtype=np.uint64) * np.uint64(2654435761)
    return (steps + np.uint64(first)).astype(np.uint32).reshape(like.shape)


class ByteOracle:
    """Writes and checks the pools of one replica through its tables alone."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size

    def check(self, batch: Sequence[Any], shards: Sequence[Any]) -> None:
        """Looks at all that was computed before, on every shard."""
        for shard, inputs in enumerate(shards):
            lengths = inputs.cache_lengths.to_numpy().tolist()
            assert lengths == [c.tokens.processed_length for c in batch]
            for row, context in enumerate(batch):
                for position in range(lengths[row]):
                    slot = self.slot(inputs, row, position)
                    wanted = words(context, position, shard, slot)
                    assert (slot == wanted).all(), (
                        f"position {position} of {context!r} on shard {shard}"
                    )
            null_page = inputs.blocks.to_numpy()[-1]
            assert not null_page.any(), f"the null page of {shard} was written"

    def write(
        self,
        batch: Sequence[Any],
        shards: Sequence[Any],
        spans: Sequence[range],
    ) -> None:
        """Computes some positions of each row."""
        for shard, inputs in enumerate(shards):
            for row, (context, span) in enumerate(
                zip(batch, spans, strict=True)
            ):
                for position in span:
                    slot = self.slot(inputs, row, position)
                    slot[...] = words(context, position, shard, slot)

    def slot(self, inputs: Any, row: int, position: int) -> Words:
        """Returns a slot `[kv, layers, heads, head_dim]`, as words."""
        column, place = divmod(position, self.page_size)
        page = int(inputs.lookup_table.to_numpy()[row, column])
        pool: Words = inputs.blocks.to_numpy().view(np.uint32)
        assert page < len(pool) - 1, f"column {column} of row {row} is null"
        return pool[page, :, :, place]
