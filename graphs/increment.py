"""A graph that moves the cache lengths on by one step."""

from max.dtype import DType
from max.graph import DeviceRef, Graph, Module, TensorType

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
