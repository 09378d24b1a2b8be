"""A graph of causal attention over pages."""

from max.dtype import DType
from max.graph import Graph, Module, TensorType

from kvcache import ops
from kvcache.graphs.ragged import row_offsets_type


def attention_graph(
    cache: ops.CacheInputTypes,
    *,
    num_q_heads: int,
    scale: float,
    layer: int = 0,
    window: int | None = None,
    sink_tokens: int = 0,
    has_sinks: bool = False,
    softcap: float | None = None,
    value_dim: int | None = None,
    name: str = "attention",
    module: Module | None = None,
) -> Graph:
    """Builds the graph.

    Inputs: those of the cache; queries
    `[total_tokens, num_q_heads, head_dim]`; `input_row_offsets` uint32
    `[batch_size + 1]`; with `has_sinks`, the sinks, float32 `[num_q_heads]`.
    Output: the weighted values, of the queries' shape, or with `value_dim`
    elements each. The pool must hold the new tokens already.

    Args:
        cache: The types of the cache's inputs.
        num_q_heads: Query heads on this device.
        scale: What the products of queries and keys are multiplied by.
        layer: The layer to read.
        window: The tokens that a token sees, itself included; all by default.
        sink_tokens: The first tokens, which stay in sight.
        has_sinks: Whether each query head has a logit without a value.
        softcap: What bounds the scores.
        value_dim: The leading elements of a latent that are its value; for a
            cache of latents, and for no other.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    shape: list[str | int] = ["total_tokens", num_q_heads, cache.head_dim]
    queries_type = TensorType(cache.row_dtype, shape, cache.device)
    types = [*cache, queries_type, row_offsets_type(cache.device)]
    if has_sinks:
        types.append(TensorType(DType.float32, [num_q_heads], cache.device))
    with Graph(
        name,
        input_types=types,
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        inputs = graph.inputs[: len(cache)]
        queries, offsets, *sinks = graph.inputs[len(cache) :]
        output = ops.attention(
            ops.CacheInputs.of(inputs),
            queries.tensor,
            offsets.tensor,
            layer=layer,
            scale=scale,
            window=window,
            sink_tokens=sink_tokens,
            sinks=sinks[0].tensor if sinks else None,
            softcap=softcap,
            value_dim=value_dim,
        )
        graph.output(output)
    return graph
