"""A step's buffers as graphs that MAX ships take them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from max.driver import Buffer
from max.graph import DeviceRef
from max.nn.kv_cache import (
    BatchCharacteristics,
    KVCacheAssignments,
    KVCacheBuffer,
    KVCacheInputsPerDevice,
    KVCacheParams,
    MHAKVCacheParams,
)

from kvcache.errors import NotOfferedError, RequestStateError
from kvcache.manager.inputs import RaggedKVCacheInputs

MaxInputs = tuple[KVCacheInputsPerDevice[Buffer, Buffer], ...]
"""What a graph takes, per device."""


@dataclass(frozen=True, slots=True)
class ReplicaStep:
    """One replica's buffers of a step, and the shape of its batch."""

    inputs: Sequence[RaggedKVCacheInputs]
    """The buffers of each of its devices."""
    shape: BatchCharacteristics
    """Requests, longest new part and longest whole."""

    def widened(self, shape: BatchCharacteristics | None) -> "ReplicaStep":
        """Returns the step as a graph sees it that was made for a shape.

        Raises:
            RequestStateError: If the batch does not fit.
        """
        if shape is None:
            return self
        mine = self.shape
        fits = (
            mine.batch_size <= shape.batch_size
            and mine.max_prompt_length <= shape.max_prompt_length
            and mine.max_cache_valid_length <= shape.max_cache_valid_length
        )
        if not fits:
            raise RequestStateError(
                f"wanted a batch of at most {_words(shape)}, got {_words(mine)}"
            )
        return ReplicaStep(self.inputs, shape)


def max_buffers(
    params: KVCacheParams, blocks: Sequence[Buffer]
) -> KVCacheBuffer:
    """Returns one replica's pages as MAX describes them.

    Args:
        params: MAX's parameters.
        blocks: The pages on each of the replica's devices.
    """
    return KVCacheBuffer(
        leaf_id=params.leaf_id(),
        replicates_kv_across_tp=params.replicates_kv_across_tp,
        values=list(blocks),
    )


def max_inputs(
    params: KVCacheParams,
    buffers: Sequence[KVCacheBuffer],
    steps: Sequence[ReplicaStep],
) -> MaxInputs:
    """Returns what MAX's graphs take, dispatch metadata included.

    Args:
        params: MAX's parameters, which know how kernels are dispatched.
        buffers: The pages of each replica.
        steps: What each replica computes.
    """
    leaf = params.leaf_id()
    assignments = [
        KVCacheAssignments(
            cache_lengths_by_device=[one.cache_lengths for one in step.inputs],
            staged_by_device=[{leaf: one.lookup_table} for one in step.inputs],
            max_prompt_length=_scalar(step.shape.max_prompt_length),
            max_cache_length=_scalar(step.shape.max_cache_valid_length),
            batch_characteristics=step.shape,
        )
        for step in steps
    ]
    return params.build_runtime_inputs(assignments, buffers)


def per_device(
    inputs: RaggedKVCacheInputs,
) -> KVCacheInputsPerDevice[Buffer, Buffer]:
    """Returns the first step of a fetch as MAX's graphs take it.

    Args:
        inputs: What `fetch` returned for one device.

    Raises:
        NotOfferedError: If the pages hold latent vectors: how their kernels
            are dispatched depends on the query heads, which no cache knows.
    """
    _, kv_dim, num_layers, page_size, num_kv_heads, head_dim = (
        inputs.blocks.shape
    )
    if kv_dim != 2:
        raise NotOfferedError(
            "wanted pages of keys and values, got latent vectors: make the "
            "manager with `from_max` and call `runtime_inputs`"
        )
    params = MHAKVCacheParams(
        dtype=inputs.blocks.dtype,
        n_kv_heads=num_kv_heads,
        head_dim=head_dim,
        num_layers=num_layers,
        page_size=page_size,
        devices=[DeviceRef.from_device(inputs.blocks.device)],
    )
    (first,) = max_inputs(
        params, [max_buffers(params, [inputs.blocks])], [step_of([inputs])]
    )
    return first


def step_of(inputs: Sequence[RaggedKVCacheInputs]) -> ReplicaStep:
    """Returns the first step of a replica's inputs, one per device."""
    first = inputs[0]
    longest = first.max_lengths.to_numpy()[0].tolist()
    return ReplicaStep(
        inputs, BatchCharacteristics(first.cache_lengths.shape[0], *longest)
    )


def _scalar(value: int) -> Buffer:
    """Returns a length as MAX's graphs take it, uint32 `[1]` on the host."""
    return Buffer.from_numpy(np.array([value], np.uint32))


def _words(shape: BatchCharacteristics) -> str:
    return (
        f"{shape.batch_size} requests, {shape.max_prompt_length} new tokens, "
        f"{shape.max_cache_valid_length} tokens"
    )
