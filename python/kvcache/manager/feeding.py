"""What a manager tells graphs between two fetches."""

from collections.abc import Sequence

from max.driver import Device
from max.engine import InferenceSession

from kvcache.errors import InvalidParamsError
from kvcache.manager.increment import CacheLengthIncrement
from kvcache.manager.inputs import (
    HasRowOffsets,
    RaggedKVCacheInputs,
    RaggedKVCacheSymbols,
)
from kvcache.manager.symbols import ragged_symbols
from kvcache.spec import KVCacheParams


class GraphFeeding:
    """The types of a fetch's buffers, and the step from one to the next."""

    params: KVCacheParams
    """Shape of a token's keys and values."""
    num_layers: int
    """Layers of the model."""
    page_size: int
    """Tokens per page."""
    devices: list[Device]
    """Where the pages live, those of replica 0 first."""
    session: InferenceSession | None
    """Runs the increment graph; made on first use if None was given."""
    _increment: CacheLengthIncrement

    def input_symbols(
        self,
        devices: Sequence[Device] | None = None,
        num_layers: int | None = None,
    ) -> list[RaggedKVCacheSymbols]:
        """Returns the graph types of what `fetch` returns, per device.

        The dimensions of one replica are called `batch_size`, `num_columns`
        and `steps_remaining`; those of several `replica_i_batch_size`,
        `replica_i_max_num_pages` and `replica_i_steps_remaining`.

        Args:
            devices: Where the graph's inputs are, instead of the manager's
                own devices; as many.
            num_layers: Layers of the pool, instead of the manager's own.

        Raises:
            InvalidParamsError: If there are more or fewer devices than the
                manager has, or `num_layers` is not positive.
        """
        places = self.devices if devices is None else devices
        layers = self.num_layers if num_layers is None else num_layers
        if len(places) != len(self.devices):
            raise InvalidParamsError(
                f"wanted {len(self.devices)} devices, as the manager has, got "
                f"{len(places)}"
            )
        if layers < 1:
            raise InvalidParamsError(
                f"num_layers must be positive, got {layers}"
            )
        return ragged_symbols(
            self.params, places, num_layers=layers, page_size=self.page_size
        )

    def increment_cache_lengths(
        self,
        kv_cache_inputs: Sequence[RaggedKVCacheInputs],
        prev_model_inputs: HasRowOffsets,
    ) -> list[RaggedKVCacheInputs]:
        """Returns the inputs of the next step of a fetch.

        Each cache length grows by what the last step computed, on the device
        and without waiting for it; `max_lengths` loses its first row.

        Args:
            kv_cache_inputs: The inputs of the last step; left as they are.
            prev_model_inputs: Has `input_row_offsets`, where each request's
                tokens started in the last step, uint32 `[batch + 1]`: of the
                whole batch, those of replica 0 first, on the first device.
                With several replicas it has `data_parallel_splits` too, as
                `get_data_parallel_splits` gives them.

        Raises:
            RequestStateError: If `fetch` was not asked for a further step, or
                the rows are not split as the inputs are.
        """
        if self.session is None:
            own = [
                d
                for i, d in enumerate(self.devices)
                if d not in self.devices[:i]
            ]
            self.session = InferenceSession(devices=own)
        return self._increment.advance(
            kv_cache_inputs, prev_model_inputs, self.session
        )
