"""Moves scattered pages between a GPU and pinned memory, in one call."""

import logging
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import DeviceRef, Module

from kvcache.core.interface import Move
from kvcache.errors import DriverError
from kvcache.manager.copy_engines import CopyEngines
from kvcache.manager.moving import Run
from kvcache.manager.stores import page_bytes

_LOGGER = logging.getLogger(__name__)
_GRAPHS = {"offload_pages": Move.OFFLOAD, "onload_pages": Move.ONLOAD}


class PageTransfer:
    """Copies pages of any shape between a GPU and the host's memory.

    Many bytes go through the GPU's copy engines, several copies side by side.
    Few bytes, small pages, and all pages without engines go through one kernel
    that reads and writes the host's memory itself. Copies of 64 KiB, one after
    the other, reach less than half the rate.

    Args:
        models: The compiled graphs of `add_transfer_graphs`, by name.
        engines: The GPU's copy engines; None to do without. They are given up
            when they fail.
    """

    def __init__(
        self, models: Mapping[str, Model], engines: CopyEngines | None = None
    ) -> None:
        """Takes the graphs that are its own."""
        self._models = {kind: models[name] for name, kind in _GRAPHS.items()}
        self._engines = engines

    @classmethod
    def compiled(cls, device: Device) -> Self | None:
        """Compiles the graphs for a GPU, and looks for its copy engines.

        Args:
            device: The GPU.

        Returns:
            None where they do not compile, as without a Mojo compiler: then
            pages have to be copied one by one.
        """
        from kvcache.ops import precompiled_package

        try:
            module = Module()
            add_transfer_graphs(module, DeviceRef.from_device(device))
            session = InferenceSession(devices=[device])
            return cls(
                session.load_all(
                    module, custom_extensions=[precompiled_package()]
                ),
                CopyEngines.of(device),
            )
        except Exception:
            _LOGGER.exception("pages go to the host and back one by one")
            return None

    @staticmethod
    def takes(pages: Buffer) -> bool:
        """Returns whether a page has a multiple of 16 bytes, as it must.

        Args:
            pages: Pages of either side.
        """
        return page_bytes(pages) % 16 == 0

    def copy(
        self,
        kind: Move,
        pages: Buffer,
        host_pages: Buffer,
        chosen: Sequence[Run],
    ) -> None:
        """Issues copies that do not depend on each other.

        They come after what was issued on the device before, and before what
        is issued there later.

        Args:
            kind: OFFLOAD or ONLOAD.
            pages: The GPU's pages; each has a multiple of 16 bytes.
            host_pages: The host's, pinned.
            chosen: Sources and targets, numbered in their own buffers.
        """
        if self._engines and self._engines.pay_for(pages, chosen):
            try:
                self._engines.copy(kind, pages, host_pages, chosen)
            except DriverError:
                _LOGGER.exception("a kernel copies pages from now on")
                self._engines = None
            else:
                return
        self._launch(kind, pages, host_pages, chosen)

    def _launch(
        self,
        kind: Move,
        pages: Buffer,
        host_pages: Buffer,
        chosen: Sequence[Run],
    ) -> None:
        """Issues all copies as one kernel."""
        pairs = np.array(
            [
                (single.source, single.target)
                for run in chosen
                for single in run.singles()
            ],
            np.uint32,
        )
        self._models[kind].execute(
            _as_bytes(pages),
            _as_bytes(host_pages),
            Buffer.from_numpy(pairs).to(pages.device),
        )


def add_transfer_graphs(module: Module, device: DeviceRef) -> None:
    """Adds the graphs that `PageTransfer` runs.

    Args:
        module: Collects graphs that are compiled together.
        device: The GPU.
    """
    from kvcache.graphs import transfer_pages_graph

    for name, kind in _GRAPHS.items():
        transfer_pages_graph(
            device, to_host=kind is Move.OFFLOAD, name=name, module=module
        )


def _as_bytes(pages: Buffer) -> Buffer:
    """Returns the same pages, uint8 `[num_pages, page_bytes]`."""
    return pages.view(DType.uint8, [pages.shape[0], page_bytes(pages)])
