"""Graphs that move the cache lengths on by one step."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from max.dtype import DType
from max.graph import (
    DeviceRef,
    Dim,
    Graph,
    Module,
    TensorType,
    TensorValue,
)

from kvcache.graphs.ragged import row_offsets_type


def increment_cache_lengths_graph(
    device: DeviceRef, *, module: Module | None = None
) -> Graph:
    """Builds the graph: no host work is left between two steps.

    Inputs: `cache_lengths` uint32 `[batch_size]` and the step's
    `input_row_offsets` uint32 `[batch_size + 1]`. Output: the lengths with
    every sequence's new tokens added.

    Args:
        device: Where the batch is.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    lengths_type = TensorType(DType.uint32, ["batch_size"], device)
    with Graph(
        "increment_cache_lengths",
        input_types=[lengths_type, row_offsets_type(device)],
        module=module,
    ) as graph:
        lengths, offsets = (value.tensor for value in graph.inputs)
        ends = offsets[1:].rebind(["batch_size"])
        starts = offsets[:-1].rebind(["batch_size"])
        graph.output(lengths + (ends - starts))
    return graph


def increment_replicas_graph(
    devices: Sequence[DeviceRef],
    replicas: Sequence[int],
    *,
    module: Module | None = None,
) -> Graph:
    """Builds the graph for several replicas, or several devices of one.

    The batch's rows are those of the first replica, then of the second one and
    so on. How many each one has is read off the shapes of its lengths, so that
    no split has to be known on the host.

    Inputs: each of `devices` its replica's `cache_lengths`, uint32
    `[replica_i_batch_size]`, then the whole step's `input_row_offsets`, uint32
    `[num_row_offsets]`, on the first of the devices. Outputs: each one's
    lengths with the new tokens added.

    Args:
        devices: Where the lengths are.
        replicas: The replica of each of them, ascending from 0.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    names = [f"replica_{replica}_batch_size" for replica in replicas]
    lengths_types = [
        TensorType(DType.uint32, [name], device)
        for name, device in zip(names, devices, strict=True)
    ]
    offsets_type = TensorType(DType.uint32, ["num_row_offsets"], devices[0])
    with Graph(
        "increment_cache_lengths_of_replicas",
        input_types=[*lengths_types, offsets_type],
        module=module,
    ) as graph:
        *lengths, offsets = (value.tensor for value in graph.inputs)
        new_tokens = _split_rows(offsets, list(dict.fromkeys(names)))
        graph.output(
            *(
                length + new_tokens[replica].to(device)
                for length, replica, device in zip(
                    lengths, replicas, devices, strict=True
                )
            )
        )
    return graph


def _split_rows(
    input_row_offsets: TensorValue, batch_sizes: Sequence[str]
) -> list[TensorValue]:
    """Returns the new tokens of each row, replica by replica."""
    sizes = [Dim(name) for name in batch_sizes]
    bounds = list(accumulate(sizes, initial=Dim(0)))
    ends = input_row_offsets[1:].rebind([bounds[-1]])
    starts = input_row_offsets[:-1].rebind([bounds[-1]])
    rows = ends - starts
    return [
        rows[(slice(TensorValue(begin), TensorValue(end)), size),]
        for (begin, end), size in zip(pairwise(bounds), sizes, strict=True)
    ]
