"""Moves pages between a GPU and pinned memory with its copy engines."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
from max.driver import Buffer, Device, DeviceQueue

from kvcache.core.interface import Move
from kvcache.manager.cuda_driver import CudaDriver
from kvcache.manager.moving import Run
from kvcache.manager.stores import page_bytes

NUM_QUEUES = 16
"""With pages of 64 KiB one queue has 73 % of the rate, 16 have 96 %."""

COPIES_PER_QUEUE = 8
"""Copies that are worth a queue of their own: queues cost time to wait for."""

FEWEST_BYTES = 2**22
"""Bytes from which on the engines are faster than one launch of a kernel."""

FEWEST_BYTES_PER_COPY = 2**16
"""Bytes of a copy from which on the engines' time for each does not count."""


class CopyEngines:
    """Copies runs of pages, dealt out over queues that run side by side.

    Args:
        driver: Issues the copies.
        device: The GPU.
        queues: Queues of its own, in which nothing else is issued.
    """

    def __init__(
        self,
        driver: CudaDriver,
        device: Device,
        queues: Sequence[DeviceQueue],
    ) -> None:
        """Takes queues that are empty."""
        self._driver = driver
        self._device = device
        self._queues = queues

    @classmethod
    def of(cls, device: Device) -> Self | None:
        """Makes the queues of a device.

        Args:
            device: Where the pages are.

        Returns:
            None if it is no GPU of CUDA, or its driver cannot copy in batches.
        """
        if device.api != "cuda" or (driver := CudaDriver.find()) is None:
            return None
        queues = [DeviceQueue(device) for _ in range(NUM_QUEUES)]
        return cls(driver, device, queues)

    @staticmethod
    def pay_for(pages: Buffer, chosen: Sequence[Run]) -> bool:
        """Returns whether the engines are faster than a kernel.

        Args:
            pages: Pages of either side.
            chosen: What is to be copied.
        """
        num_bytes = page_bytes(pages) * sum(run.count for run in chosen)
        return num_bytes >= max(
            FEWEST_BYTES, FEWEST_BYTES_PER_COPY * len(chosen)
        )

    def copy(
        self,
        kind: Move,
        pages: Buffer,
        host_pages: Buffer,
        chosen: Sequence[Run],
    ) -> None:
        """Issues copies that do not depend on each other, one for each run.

        They come after what was issued on the device's default queue before,
        and before what is issued there later, also where an error is raised.

        Args:
            kind: OFFLOAD or ONLOAD.
            pages: The GPU's pages, of any size.
            host_pages: The host's, pinned. Both live until the copies end.
            chosen: Sources and targets, numbered in their own buffers.

        Raises:
            DriverError: If the driver refuses. Some pages may be copied.
        """
        source, target = pages, host_pages
        if kind is Move.ONLOAD:
            source, target = target, source
        num_queues = min(-(-len(chosen) // COPIES_PER_QUEUE), len(self._queues))
        default = self._device.default_queue
        used: list[DeviceQueue] = []
        try:
            for place, queue in enumerate(self._queues[:num_queues]):
                # The first queue copies while the others' addresses are made.
                copies = copies_of(source, target, chosen[place::num_queues])
                queue.wait_for(default)
                used.append(queue)
                self._driver.copy(copies, queue.native_stream_handle)
        finally:
            for queue in used:
                default.wait_for(queue)


def copies_of(
    source: Buffer, target: Buffer, chosen: Sequence[Run]
) -> npt.NDArray[np.uint64]:
    """Returns where runs of pages are in memory, and how long they are.

    Args:
        source: The pages to read.
        target: The pages to write.
        chosen: Pages of both.

    Returns:
        Addresses of targets and of sources, and bytes, `[3, num_runs]`.
    """
    size = page_bytes(source)
    assert size == page_bytes(target), "pages of two sizes"
    numbers = np.array(
        [
            [run.target for run in chosen],
            [run.source for run in chosen],
            [run.count for run in chosen],
        ],
        np.uint64,
    )
    targets, sources, counts = numbers
    for buffer, first in ((target, targets), (source, sources)):
        assert (first + counts <= buffer.shape[0]).all(), "page out of range"
    bases = np.array([_address(target), _address(source), 0], np.uint64)
    return numbers * np.uint64(size) + bases[:, None]


def _address(buffer: Buffer) -> int:
    return buffer._data_ptr()  # noqa: SLF001  (no public one)
