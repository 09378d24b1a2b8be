"""A graph that gathers pages into contiguous keys and values."""

from max.graph import BufferType, Graph, Module

from kvcache import ops
from kvcache.graphs.ragged import row_offsets_type


def gather_graph(
    cache: ops.CacheInputTypes,
    *,
    layer: int = 0,
    name: str = "gather",
    module: Module | None = None,
) -> Graph:
    """Builds the graph.

    Inputs: those of the cache; buffers that receive the keys and values,
    `[context_tokens, num_kv_heads, head_dim]`; `context_row_offsets` uint32
    `[batch_size + 1]`. It has no outputs.

    Args:
        cache: The types of the cache's inputs.
        layer: The layer to read.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    shape: list[str | int] = [
        "context_tokens",
        cache.num_kv_heads,
        cache.head_dim,
    ]
    rows = BufferType(cache.row_dtype, shape, cache.device)
    types = [*cache, rows, rows, row_offsets_type(cache.device)]
    with Graph(
        name,
        input_types=types,
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        *inputs, keys, values, offsets = graph.inputs
        ops.gather(
            ops.CacheInputs.of(inputs),
            keys.buffer,
            values.buffer,
            offsets.tensor,
            layer=layer,
        )
        graph.output()
    return graph
