"""Graphs that store and gather latents."""

from max.graph import BufferType, Graph, Module, TensorType

from kvcache import ops
from kvcache.graphs.ragged import row_offsets_type


def store_latents_graph(
    cache: ops.CacheInputTypes,
    *,
    layer: int = 0,
    name: str = "store_latents",
    module: Module | None = None,
) -> Graph:
    """Builds a graph that stores the latents of a ragged batch.

    Inputs: those of the cache; latents `[total_tokens, head_dim]`;
    `input_row_offsets` uint32 `[batch_size + 1]`. It has no outputs: the pool
    changes in place.

    Args:
        cache: The types of the cache's inputs, which are of latents.
        layer: The layer to store to.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    shape: list[str | int] = ["total_tokens", cache.head_dim]
    rows = TensorType(cache.row_dtype, shape, cache.device)
    with Graph(
        name,
        input_types=[*cache, rows, row_offsets_type(cache.device)],
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        *inputs, latents, offsets = graph.inputs
        ops.store_latents(
            ops.CacheInputs.of(inputs),
            latents.tensor,
            offsets.tensor,
            layer=layer,
        )
        graph.output()
    return graph


def gather_latents_graph(
    cache: ops.CacheInputTypes,
    *,
    layer: int = 0,
    name: str = "gather_latents",
    module: Module | None = None,
) -> Graph:
    """Builds a graph that gathers pages into contiguous latents.

    Inputs: those of the cache; a buffer that receives the latents,
    `[context_tokens, head_dim]`; `context_row_offsets` uint32
    `[batch_size + 1]`. It has no outputs.

    Args:
        cache: The types of the cache's inputs, which are of latents.
        layer: The layer to read.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    shape: list[str | int] = ["context_tokens", cache.head_dim]
    rows = BufferType(cache.row_dtype, shape, cache.device)
    with Graph(
        name,
        input_types=[*cache, rows, row_offsets_type(cache.device)],
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        *inputs, latents, offsets = graph.inputs
        ops.gather_latents(
            ops.CacheInputs.of(inputs),
            latents.buffer,
            offsets.tensor,
            layer=layer,
        )
        graph.output()
    return graph
