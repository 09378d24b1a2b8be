"""The pages of one replica, on each of its devices."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from max.driver import Buffer, Device, batch_inplace_copy

from kvcache.core.interface import Move
from kvcache.manager.inputs import RaggedKVCacheInputs
from kvcache.manager.moving import Outcome, Run, carry_out, runs
from kvcache.manager.quantized_inputs import QuantizedKVCacheInputs
from kvcache.manager.stores import PageStore, page_parts
from kvcache.manager.summarised_inputs import with_summaries
from kvcache.manager.tables import StepTables
from kvcache.manager.transfer import PageTransfer
from kvcache.spec import KVCacheParams


class DevicePool:
    """The pages on one device.

    Args:
        params: Shape of a token's keys and values.
        num_pages: Pages that can be handed out; the null page comes on top.
        num_layers: Layers of the model.
        page_size: Tokens per page.
        device: Where the pages live.
        num_host_pages: Pages that the host keeps for the device.
        transfer: Moves pages to the host and back; None for one by one.
    """

    def __init__(
        self,
        params: KVCacheParams,
        num_pages: int,
        *,
        num_layers: int,
        page_size: int,
        device: Device,
        num_host_pages: int = 0,
        transfer: PageTransfer | None = None,
    ) -> None:
        """Allocates the pages, those of the device all zeros."""
        self.device = device
        self._params = params
        self._num_pages = num_pages
        self._stores = [
            PageStore(
                page,
                dtype,
                device=device,
                num_pages=num_pages,
                num_host_pages=num_host_pages,
            )
            for page, dtype in page_parts(params, num_layers, page_size)
        ]
        self._transfer = transfer

    @property
    def blocks(self) -> Buffer:
        """The pool, its last page the null page."""
        return self._stores[0].pages

    @property
    def scales(self) -> Buffer | None:
        """The pool of scales, if the pages are quantised."""
        if self._params.quantization is None:
            return None
        return self._stores[1].pages

    @property
    def summaries(self) -> list[Buffer]:
        """The pools of summaries, one for each field."""
        before = 1 if self._params.quantization is None else 2
        return [each.pages for each in self._stores[before:]]

    def inputs(
        self, lengths: Buffer, table: Buffer, longest: Buffer
    ) -> RaggedKVCacheInputs:
        """Returns the pools along with a step's tables."""
        inputs = RaggedKVCacheInputs(self.blocks, lengths, table, longest)
        if self.scales is not None:
            inputs = QuantizedKVCacheInputs(*inputs, self.scales)
        if self._params.summaries is not None:
            inputs = with_summaries(
                inputs, self._params.summaries, self.summaries
            )
        return inputs

    def copy_runs(self, kind: Move, chosen: Sequence[Run]) -> None:
        """Issues copies that do not depend on each other, all in one call.

        Between a GPU and the host each pool is one call, unless its pages are
        too odd for that.

        They come after what was issued on the device, and before what is
        issued there later; see `_await_host`.
        """
        own = [self._in_own_buffers(kind, run) for run in chosen]
        one_by_one = self._stores
        if (transfer := self._transfer) and kind is not Move.COPY:
            one_by_one = []
            for each in self._stores:
                if transfer.takes(each.pages):
                    transfer.copy(kind, each.pages, each.host_pages, own)
                else:
                    one_by_one.append(each)
        if one_by_one:
            to_host, from_host = kind is Move.OFFLOAD, kind is Move.ONLOAD
            batch_inplace_copy(
                [
                    each.part(run.target, run.count, to_host)
                    for run in own
                    for each in one_by_one
                ],
                [
                    each.part(run.source, run.count, from_host)
                    for run in own
                    for each in one_by_one
                ],
            )
        self._await_host()

    def copy_from(
        self, source: "DevicePool", pages: list[int], into: list[int]
    ) -> None:
        """Copies pages of another pool into pages of this one.

        What was issued on the source's device before is awaited by the copy,
        and the copy by what is issued there later; see `_await_host`.
        """
        here, there = self.device.default_queue, source.device.default_queue
        is_apart = self.device != source.device
        if is_apart:
            here.wait_for(there)
        for run in runs(zip(pages, into, strict=True)):
            parts = zip(
                self.parts(run.target, run.count),
                source.parts(run.source, run.count),
                strict=True,
            )
            for mine, other in parts:
                mine.inplace_copy_from(other)
        if is_apart:
            there.wait_for(here)
        self._await_host()

    def _in_own_buffers(self, kind: Move, run: Run) -> Run:
        """Returns a run with the host's pages numbered from 0 on."""
        if kind is Move.OFFLOAD:
            return replace(run, target=run.target - self._num_pages)
        if kind is Move.ONLOAD:
            return replace(run, source=run.source - self._num_pages)
        return run

    def _await_host(self) -> None:
        """Waits for copies if the pages are on the host.

        On the other devices a queue orders copies and graphs. On the CPU a
        graph of MAX 26.7 does not wait for the copies issued before it.
        """
        if self.blocks.device.is_host:
            self.blocks.device.synchronize()

    def parts(
        self, page: int, count: int, is_on_host: bool = False
    ) -> list[Buffer]:
        """Returns pages that lie side by side, and all that goes with them."""
        begin = page - self._num_pages if is_on_host else page
        return [each.part(begin, count, is_on_host) for each in self._stores]


class ReplicaPools:
    """The pages of one replica: each device has its share of the heads.

    Args:
        params: Shape of a token's keys and values.
        num_pages: Pages that can be handed out; the null page comes on top.
        num_layers: Layers of the model.
        page_size: Tokens per page.
        devices: Where the shares live; one device may hold several.
        num_host_pages: Pages that the host keeps; their numbers follow.
        transfers: What moves pages between each device and the host.
    """

    def __init__(
        self,
        params: KVCacheParams,
        num_pages: int,
        *,
        num_layers: int,
        page_size: int,
        devices: Sequence[Device],
        num_host_pages: int = 0,
        transfers: Sequence[PageTransfer | None] | None = None,
    ) -> None:
        """Allocates the pages of every share, those of devices all zeros."""
        self.shards = [
            DevicePool(
                params,
                num_pages,
                num_layers=num_layers,
                page_size=page_size,
                device=device,
                num_host_pages=num_host_pages,
                transfer=transfer,
            )
            for device, transfer in zip(
                devices, transfers or [None] * len(devices), strict=True
            )
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
            shard.inputs(
                lengths.to(shard.device), table.to(shard.device), longest
            )
            for shard in self.shards
        ]

    def carry_out(self, moves: npt.NDArray[np.uint32]) -> Outcome:
        """Moves pages as the books say, on every share or it counts as lost.

        Args:
            moves: Kind, source and target, `[num_moves, 3]`; see `carry_out`.
        """
        return carry_out(moves, self._copy_runs)

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
            inputs.append(shard.inputs(lengths, table, max_lengths))
        return inputs

    def copy_from(
        self, source: "ReplicaPools", pages: list[int], into: list[int]
    ) -> None:
        """Copies pages of another replica into pages of this one."""
        for shard, other in zip(self.shards, source.shards, strict=True):
            shard.copy_from(other, pages, into)

    def _copy_runs(self, kind: Move, chosen: Sequence[Run]) -> None:
        for shard in self.shards:
            shard.copy_runs(kind, chosen)


def _to(device: Device, array: npt.NDArray[np.uint32]) -> Buffer:
    return Buffer.from_numpy(array).to(device)
