"""The pages of one replica, on each of its devices."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from max.driver import Buffer, Device
from max.dtype import DType

from kvcache.manager.inputs import RaggedKVCacheInputs
from kvcache.manager.tables import StepTables
from kvcache.spec import KVCacheParams


class DevicePool:
    """The pages on one device.

    Args:
        params: Shape of a token's keys and values.
        num_pages: Pages that can be handed out; the null page comes on top.
        num_layers: Layers of the model.
        page_size: Tokens per page.
        device: Where the pages live.
    """

    def __init__(
        self,
        params: KVCacheParams,
        num_pages: int,
        *,
        num_layers: int,
        page_size: int,
        device: Device,
    ) -> None:
        """Allocates the pages, all zeros."""
        self.device = device
        shape = (num_pages + 1, *page_shape(params, num_layers, page_size))
        self.blocks = Buffer.zeros(shape, DType[params.dtype], device)

    def carry_out(self, moves: npt.NDArray[np.uint32]) -> None:
        """Moves pages between places of this device, in order."""
        for _, source, target in moves.tolist():
            self._page(target).inplace_copy_from(self._page(source))

    def _page(self, page: int) -> Buffer:
        inner = (slice(None),) * (self.blocks.rank - 1)
        return self.blocks[slice(page, page + 1), *inner]

    def copy_from(
        self, source: "DevicePool", pages: list[int], into: list[int]
    ) -> None:
        """Copies pages of another pool into pages of this one.

        What was issued on the source's device before is awaited by the copy,
        and the copy by what is issued there later; the host waits for nothing.
        """
        here, there = self.device.default_queue, source.device.default_queue
        is_apart = self.device != source.device
        if is_apart:
            here.wait_for(there)
        inner = (slice(None),) * (self.blocks.rank - 1)
        for begin, target, count in _runs(pages, into):
            self.blocks[
                slice(target, target + count), *inner
            ].inplace_copy_from(
                source.blocks[slice(begin, begin + count), *inner]
            )
        if is_apart:
            there.wait_for(here)


class ReplicaPools:
    """The pages of one replica: each device has its share of the heads.

    Args:
        params: Shape of a token's keys and values.
        num_pages: Pages that can be handed out; the null page comes on top.
        num_layers: Layers of the model.
        page_size: Tokens per page.
        devices: Where the shares live; one device may hold several.
    """

    def __init__(
        self,
        params: KVCacheParams,
        num_pages: int,
        *,
        num_layers: int,
        page_size: int,
        devices: Sequence[Device],
    ) -> None:
        """Allocates the pages of every share, all zeros."""
        self.shards = [
            DevicePool(
                params,
                num_pages,
                num_layers=num_layers,
                page_size=page_size,
                device=device,
            )
            for device in devices
        ]

    def inputs_of(
        self, tables: tuple[Buffer, Buffer, Buffer]
    ) -> list[RaggedKVCacheInputs]:
        """Returns the inputs of a step whose tables are buffers on the host.

        Args:
            tables: Cache lengths, lookup table and longest lengths.
        """
        lengths, table, longest = tables
        return [
            RaggedKVCacheInputs(
                shard.blocks,
                lengths.to(shard.device),
                table.to(shard.device),
                longest,
            )
            for shard in self.shards
        ]

    def carry_out(self, moves: npt.NDArray[np.uint32]) -> None:
        """Moves pages as the books say, in order.

        Args:
            moves: Kind, source and destination, `[num_moves, 3]`.
        """
        if len(moves):
            for shard in self.shards:
                shard.carry_out(moves)

    def inputs(self, tables: StepTables) -> list[RaggedKVCacheInputs]:
        """Returns the buffers of a step, one copy of the tables a device."""
        arrays = (tables.cache_lengths, tables.lookup_table)
        max_lengths = Buffer.from_numpy(tables.max_lengths)
        places: list[Device] = []
        copies: list[list[Buffer]] = []
        for shard in self.shards:
            if shard.device not in places:
                places.append(shard.device)
                copies.append([_to(shard.device, array) for array in arrays])
        inputs = []
        for shard in self.shards:
            lengths, table = copies[places.index(shard.device)]
            inputs.append(
                RaggedKVCacheInputs(shard.blocks, lengths, table, max_lengths)
            )
        return inputs

    def copy_from(
        self, source: "ReplicaPools", pages: list[int], into: list[int]
    ) -> None:
        """Copies pages of another replica into pages of this one."""
        for shard, other in zip(self.shards, source.shards, strict=True):
            shard.copy_from(other, pages, into)


def page_shape(
    params: KVCacheParams, num_layers: int, page_size: int
) -> tuple[int, ...]:
    """Returns the shape of one page on one device."""
    return (
        params.kv_dim,
        num_layers,
        page_size,
        params.n_kv_heads_per_device,
        params.head_dim,
    )


def _to(device: Device, array: npt.NDArray[np.uint32]) -> Buffer:
    return Buffer.from_numpy(array).to(device)


def _runs(pages: list[int], into: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yields source, target and length of pages that lie side by side."""
    begin = 0
    for end in range(1, len(pages) + 1):
        if end < len(pages) and (
            pages[end] == pages[end - 1] + 1 and into[end] == into[end - 1] + 1
        ):
            continue
        yield pages[begin], into[begin], end - begin
        begin = end
