"""A graph that copies pages within the pool."""

from max.dtype import DType
from max.graph import Graph, Module, TensorType

from kvcache import ops


def copy_pages_graph(
    cache: ops.CacheInputTypes,
    *,
    name: str = "copy_pages",
    module: Module | None = None,
) -> Graph:
    """Builds the graph.

    Inputs: the pool, then `pairs` of source and target pages, uint32
    `[num_pairs, 2]`. It has no outputs: the pool changes in place.

    Args:
        cache: The types of the cache's inputs; only the pool's matters.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    pairs_type = TensorType(DType.uint32, ["num_pairs", 2], cache.device)
    with Graph(
        name,
        input_types=[cache.kv_blocks, pairs_type],
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        kv_blocks, pairs = graph.inputs
        ops.copy_pages(kv_blocks.buffer, pairs.tensor)
        graph.output()
    return graph
