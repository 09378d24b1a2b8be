"""A graph that moves pages between a GPU and the host's memory."""

from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, Module, TensorType

from kvcache import ops


def transfer_pages_graph(
    device: DeviceRef,
    *,
    to_host: bool,
    name: str = "transfer_pages",
    module: Module | None = None,
) -> Graph:
    """Builds the graph, which is the same for pages of every shape.

    Inputs: the device's pages as bytes, uint8 `[num_pages, page_bytes]`; the
    host's, uint8 `[num_host_pages, page_bytes]`, pinned; `pairs` of source and
    target pages, uint32 `[num_pairs, 2]`, on the device. It has no outputs.

    Args:
        device: The GPU.
        to_host: Whether the host's pages are the targets.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    pages, host_pages = (
        BufferType(DType.uint8, [count, "page_bytes"], place)
        for count, place in (
            ("num_pages", device),
            ("num_host_pages", DeviceRef.CPU()),
        )
    )
    pairs = TensorType(DType.uint32, ["num_pairs", 2], device)
    with Graph(
        name,
        input_types=[pages, host_pages, pairs],
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        ops.transfer_pages(
            graph.inputs[0].buffer,
            graph.inputs[1].buffer,
            graph.inputs[2].tensor,
            to_host=to_host,
        )
        graph.output()
    return graph
