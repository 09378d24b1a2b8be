"""A graph of causal attention over pages, by the kernels of MAX."""

from max.graph import Graph, Module, TensorType

from kvcache import ops
from kvcache.graphs.ragged import row_offsets_type


def attention_max_graph(
    cache: ops.CacheInputTypes,
    *,
    num_q_heads: int,
    scale: float,
    layer: int = 0,
    name: str = "attention_max",
    module: Module | None = None,
) -> Graph:
    """Builds the graph.

    Inputs and output are those of `attention_graph` without sinks.

    Args:
        cache: The types of the cache's inputs.
        num_q_heads: Query heads on this device.
        scale: What the products of queries and keys are multiplied by.
        layer: The layer to read.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.

    Raises:
        ValueError: If the kernels of the device do not take the cache.
    """
    shape: list[str | int] = ["total_tokens", num_q_heads, cache.head_dim]
    queries_type = TensorType(cache.dtype, shape, cache.device)
    with Graph(
        name,
        input_types=[*cache, queries_type, row_offsets_type(cache.device)],
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        *inputs, queries, offsets = graph.inputs
        output = ops.attention_max(
            ops.CacheInputs.of(inputs),
            queries.tensor,
            offsets.tensor,
            layer=layer,
            scale=scale,
        )
        graph.output(output)
    return graph
