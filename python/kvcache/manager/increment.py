"""Moves the inputs of a step on to the next one, on the devices alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from max.driver import Buffer, Device
from max.graph import DeviceRef, Graph

from kvcache.errors import RequestStateError
from kvcache.manager.inputs import HasRowOffsets, RaggedKVCacheInputs

if TYPE_CHECKING:
    from max.engine import InferenceSession, Model


class CacheLengthIncrement:
    """Adds what a step computed to the cache lengths of every device.

    Its graph is compiled on first use. It takes the lengths once per replica
    and device: devices that are one and the same share the result.

    Args:
        devices: Those of the inputs, in the order of the replicas.
        num_replicas: How many replicas they are split into.
    """

    def __init__(self, devices: Sequence[Device], num_replicas: int) -> None:
        """Finds out which lengths differ; compiles nothing."""
        self._num_replicas = num_replicas
        self._devices = devices
        each = len(devices) // num_replicas
        keys = [(i // each, device) for i, device in enumerate(devices)]
        self._firsts = [i for i, key in enumerate(keys) if key not in keys[:i]]
        lengths = [keys[i] for i in self._firsts]
        self._length_of = [lengths.index(key) for key in keys]
        self._replica_of = [replica for replica, _device in lengths]
        self._model: Model | None = None

    def advance(
        self,
        inputs: Sequence[RaggedKVCacheInputs],
        step: HasRowOffsets,
        session: "InferenceSession",
    ) -> list[RaggedKVCacheInputs]:
        """Returns the inputs of the next step; see the manager.

        Raises:
            RequestStateError: If no further step was fetched, or the inputs or
                the step are not of this manager's replicas.
        """
        self._check(inputs, step)
        if self._model is None:
            self._model = session.load(self._graph())
        lengths = self._model.execute(
            *(inputs[i].cache_lengths for i in self._firsts),
            _row_offsets(step),
        )
        return [
            each._replace(
                cache_lengths=lengths[place],
                max_lengths=each.max_lengths[1:, :],
            )
            for each, place in zip(inputs, self._length_of, strict=True)
        ]

    def _graph(self) -> Graph:
        from kvcache.graphs.increment import (
            increment_cache_lengths_graph,
            increment_replicas_graph,
        )

        places = [DeviceRef.from_device(self._devices[i]) for i in self._firsts]
        if len(places) == 1:
            return increment_cache_lengths_graph(places[0])
        return increment_replicas_graph(places, self._replica_of)

    def _check(
        self, inputs: Sequence[RaggedKVCacheInputs], step: HasRowOffsets
    ) -> None:
        if len(inputs) != len(self._devices):
            raise RequestStateError(
                f"wanted the inputs of {len(self._devices)} devices, got "
                f"{len(inputs)}"
            )
        steps = min(each.max_lengths.shape[0] for each in inputs)
        if steps < 2:
            raise RequestStateError(
                f"wanted a further step that was fetched, got {steps} left, "
                f"the last one included"
            )
        if self._num_replicas > 1:
            self._check_splits(inputs, step)

    def _check_splits(
        self, inputs: Sequence[RaggedKVCacheInputs], step: HasRowOffsets
    ) -> None:
        """Verifies that a step's rows are split as the inputs' are.

        Only shapes and what is on the host anyhow is looked at.
        """
        each = len(inputs) // self._num_replicas
        sizes = [item.cache_lengths.shape[0] for item in inputs[::each]]
        wanted = [0, *np.cumsum(sizes).tolist()]
        splits = getattr(step, "data_parallel_splits", None)
        if splits is None:
            raise RequestStateError(
                f"wanted data_parallel_splits beside the row offsets of "
                f"{self._num_replicas} replicas, got none"
            )
        is_readable = not isinstance(splits, Buffer) or splits.device.is_host
        if is_readable and np.asarray(_host(splits)).tolist() != wanted:
            raise RequestStateError(
                f"wanted rows that are split as the inputs are, {wanted}, got "
                f"{np.asarray(_host(splits)).tolist()}"
            )
        rows = _row_offsets(step).shape[0]
        if rows != wanted[-1] + 1:
            raise RequestStateError(
                f"wanted {wanted[-1] + 1} row offsets, got {rows}"
            )


def _host(splits: object) -> object:
    return splits.to_numpy() if isinstance(splits, Buffer) else splits


def _row_offsets(step: HasRowOffsets) -> Buffer:
    offsets = step.input_row_offsets
    return offsets if isinstance(offsets, Buffer) else offsets[0]
