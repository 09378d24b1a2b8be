"""A graph that stores the keys and values of a ragged batch."""

from max.graph import Graph, Module, TensorType

from kvcache import ops
from kvcache.graphs.ragged import given_scales, row_offsets_type


def store_graph(
    cache: ops.CacheInputTypes,
    *,
    layer: int = 0,
    name: str = "store",
    module: Module | None = None,
) -> Graph:
    """Builds the graph.

    Inputs: those of the cache, keys and values
    `[total_tokens, num_kv_heads, head_dim]`, `input_row_offsets` uint32
    `[batch_size + 1]`, then `cache.scales` if it is a type. It has no outputs:
    the pool changes in place.

    Args:
        cache: The types of the cache's inputs.
        layer: The layer to store to.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    shape: list[str | int] = [
        "total_tokens",
        cache.num_kv_heads,
        cache.head_dim,
    ]
    rows = TensorType(cache.row_dtype, shape, cache.device)
    types = [*cache, rows, rows, row_offsets_type(cache.device)]
    types += given_scales(cache)
    with Graph(
        name,
        input_types=types,
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        inputs = graph.inputs[: len(cache)]
        keys, values, offsets, *scales = graph.inputs[len(cache) :]
        ops.store(
            ops.CacheInputs.of(inputs),
            keys.tensor,
            values.tensor,
            offsets.tensor,
            layer=layer,
            scales=scales[0].tensor if scales else None,
        )
        graph.output()
    return graph
