"""A graph of causal attention over pages."""

from max.graph import Graph, Module, TensorType

from kvcache import ops
from kvcache.graphs.ragged import row_offsets_type


def attention_graph(
    cache: ops.CacheInputTypes,
    *,
    num_q_heads: int,
    scale: float,
    layer: int = 0,
    name: str = "attention",
    module: Module | None = None,
) -> Graph:
    """Builds the graph.

    Inputs: the four of the cache; queries
    `[total_tokens, num_q_heads, head_dim]`; `input_row_offsets` uint32
    `[batch_size + 1]`. Output: the weighted values, of the queries' shape. The
    pool must hold the new tokens already.

    Args:
        cache: The types of the cache's inputs.
        num_q_heads: Query heads on this device.
        scale: What scores are multiplied by before the softmax.
        layer: The layer to read.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    shape: list[str | int] = ["total_tokens", num_q_heads, cache.head_dim]
    queries_type = TensorType(cache.dtype, shape, cache.device)
    types = [*cache, queries_type, row_offsets_type(cache.device)]
    with Graph(
        name,
        input_types=types,
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        *inputs, queries, offsets = graph.inputs
        output = ops.attention(
            ops.CacheInputs.of(inputs),
            queries.tensor,
            offsets.tensor,
            layer=layer,
            scale=scale,
        )
        graph.output(output)
    return graph
