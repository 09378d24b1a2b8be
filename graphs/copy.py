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

    Inputs: the pool; that of the scales if the cache is quantised; then
    `pairs` of source and target pages, uint32 `[num_pairs, 2]`. It has no
    outputs: the pools change in place.

    Args:
        cache: The types of the cache's inputs; only the pools' matter.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    pairs_type = TensorType(DType.uint32, ["num_pairs", 2], cache.device)
    pools = [cache.kv_blocks]
    if cache.kv_scales is not None:
        pools.append(cache.kv_scales)
    with Graph(
        name,
        input_types=[*pools, pairs_type],
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        *buffers, pairs = graph.inputs
        for pool in buffers:
            ops.copy_pages(pool.buffer, pairs.tensor)
        graph.output()
    return graph
