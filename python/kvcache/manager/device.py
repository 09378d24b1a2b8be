"""One device's share of the pool, and the graphs that work on it."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from max.driver import Buffer, Device
from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType

from kvcache.errors import RequestStateError
from kvcache.manager.inputs import RaggedKVCacheInputs, RaggedKVCacheSymbols
from kvcache.manager.tables import StepTables
from kvcache.spec import KVCacheParams

if TYPE_CHECKING:
    from max.engine import InferenceSession, Model


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
        self._device = device
        self._dtype = DType[params.dtype]
        self._page_shape = (
            params.kv_dim,
            num_layers,
            page_size,
            params.n_kv_heads_per_device,
            params.head_dim,
        )
        shape = (num_pages + 1, *self._page_shape)
        self.blocks = Buffer.zeros(shape, self._dtype, device)
        self._increment: Model | None = None

    def inputs(self, tables: StepTables) -> RaggedKVCacheInputs:
        """Returns the buffers of a step."""
        return RaggedKVCacheInputs(
            blocks=self.blocks,
            cache_lengths=self._to_device(tables.cache_lengths),
            lookup_table=self._to_device(tables.lookup_table),
            max_lengths=Buffer.from_numpy(tables.max_lengths),
        )

    def symbols(self) -> RaggedKVCacheSymbols:
        """Returns the graph types of a step's buffers."""
        device, host = DeviceRef.from_device(self._device), DeviceRef.CPU()
        table, steps = ["batch_size", "num_columns"], ("steps_remaining", 2)
        return RaggedKVCacheSymbols(
            blocks=BufferType(
                self._dtype, ["total_num_pages", *self._page_shape], device
            ),
            cache_lengths=TensorType(DType.uint32, ["batch_size"], device),
            lookup_table=TensorType(DType.uint32, table, device),
            max_lengths=TensorType(DType.uint32, steps, host),
        )

    def advance(
        self,
        inputs: RaggedKVCacheInputs,
        input_row_offsets: Buffer,
        session: "InferenceSession",
    ) -> RaggedKVCacheInputs:
        """Returns the inputs of the next step; nothing leaves the device.

        Raises:
            RequestStateError: If no further step was fetched.
        """
        steps = inputs.max_lengths.shape[0]
        if steps < 2:
            raise RequestStateError(
                f"wanted a further step that was fetched, got {steps} left, "
                f"the last one included"
            )
        if self._increment is None:
            from kvcache.graphs.increment import increment_cache_lengths_graph

            device = DeviceRef.from_device(self._device)
            graph = increment_cache_lengths_graph(device)
            self._increment = session.load(graph)
        (cache_lengths,) = self._increment.execute(
            inputs.cache_lengths, input_row_offsets
        )
        return inputs._replace(
            cache_lengths=cache_lengths, max_lengths=inputs.max_lengths[1:, :]
        )

    def _to_device(self, array: npt.NDArray[np.uint32]) -> Buffer:
        return Buffer.from_numpy(array).to(self._device)
