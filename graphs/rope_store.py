"""A graph that rotates queries and keys and stores keys and values."""

from max.dtype import DType
from max.graph import Graph, Module, TensorType

from kvcache import ops
from kvcache.graphs.ragged import given_scales, row_offsets_type


def rope_store_graph(
    cache: ops.CacheInputTypes,
    *,
    num_q_heads: int,
    rope_dim: int | None = None,
    interleaved: bool = False,
    layer: int = 0,
    name: str = "rope_store",
    module: Module | None = None,
) -> Graph:
    """Builds the graph.

    Inputs: those of the cache; `qkv`
    `[total_tokens, (num_q_heads + 2 * num_kv_heads) * head_dim]`; `freqs`
    float32 `[num_positions, rope_dim]`, cosines then sines;
    `input_row_offsets` uint32 `[batch_size + 1]`; then `cache.scales` if it is
    a type. Output: the rotated queries,
    `[total_tokens, num_q_heads, head_dim]`.

    Args:
        cache: The types of the cache's inputs.
        num_q_heads: Query heads on this device.
        rope_dim: The leading elements of a head that turn; all by default.
        interleaved: Whether rotated pairs are neighbours.
        layer: The layer to store to.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    width = (num_q_heads + 2 * cache.num_kv_heads) * cache.head_dim
    qkv_type = TensorType(
        cache.row_dtype, ["total_tokens", width], cache.device
    )
    freqs_shape: list[str | int] = ["num_positions", rope_dim or cache.head_dim]
    freqs_type = TensorType(DType.float32, freqs_shape, cache.device)
    types = [*cache, qkv_type, freqs_type, row_offsets_type(cache.device)]
    types += given_scales(cache)
    with Graph(
        name,
        input_types=types,
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        inputs = graph.inputs[: len(cache)]
        qkv, freqs, offsets, *scales = graph.inputs[len(cache) :]
        queries = ops.rope_store(
            ops.CacheInputs.of(inputs),
            qkv.tensor,
            freqs.tensor,
            offsets.tensor,
            layer=layer,
            interleaved=interleaved,
            scales=scales[0].tensor if scales else None,
        )
        graph.output(queries)
    return graph
