"""A store in Triton, of the same effect, where Triton and torch are.

It takes a slot of each token, as vLLM's does: the table is read beforehand.
"""

from importlib.util import find_spec
from typing import Any

import numpy as np
from max.driver import Buffer
from max.dtype import DType

from benchmarks.gpu_kernels.bench import Bench
from benchmarks.gpu_kernels.layout import (
    HEAD_DIM,
    NUM_KV_HEADS,
    NUM_LAYERS,
    Step,
)

ROW = NUM_KV_HEADS * HEAD_DIM


class TritonStore:
    """Stores one step's rows to every layer of a pool.

    Args:
        step: The batch.
        keys: Its keys.
        values: Its values.
        pool: The pool.
    """

    @staticmethod
    def is_available() -> bool:
        """Returns whether there is what it needs."""
        return find_spec("triton") is not None

    def __init__(
        self, step: Step, keys: Buffer, values: Buffer, pool: Buffer
    ) -> None:
        """Computes the slots."""
        import torch

        from benchmarks.gpu_kernels.triton_kernel import store

        self._kernel = store
        self._keys, self._values, self._pool = (
            torch.from_dlpack(buffer.view(DType.int16))
            for buffer in (keys, values, pool)
        )
        self._slots = torch.from_numpy(_slots(step)).cuda()
        self._page_size = step.batch.page_size

    def run(self) -> None:
        """Launches one kernel a layer."""
        import torch

        plane = self._page_size * ROW
        for layer in range(NUM_LAYERS):
            self._kernel[(len(self._slots),)](
                self._keys,
                self._values,
                self._pool,
                self._slots,
                layer * plane,
                NUM_LAYERS * plane,
                2 * NUM_LAYERS * plane,
                page_size=self._page_size,
                row=ROW,
                num_warps=4,
            )
        if not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()

    def graph_us(self, bench: Bench) -> float:
        """Returns the time of one layer in a CUDA graph, in microseconds."""
        import torch

        self.run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.run()
        return bench.torch_us(graph.replay) / NUM_LAYERS


def _slots(step: Step) -> Any:
    """Returns page times page size plus place, of each new token."""
    batch, table = step.batch, step.pages.lookup_table
    slots = []
    for seq, (cached, new) in enumerate(batch.lengths):
        columns, places = np.divmod(
            np.arange(cached, cached + new), batch.page_size
        )
        slots.append(table[seq, columns] * batch.page_size + places)
    return np.concatenate(slots).astype(np.int64)
