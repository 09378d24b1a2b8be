"""A graph that turns cached keys on to new positions."""

from max.dtype import DType
from max.graph import Graph, Module, TensorType

from kvcache import ops


def rope_shift_graph(
    cache: ops.CacheInputTypes,
    *,
    rope_dim: int | None = None,
    interleaved: bool = False,
    begin: int = 0,
    name: str = "rope_shift",
    module: Module | None = None,
) -> Graph:
    """Builds the graph.

    Inputs: the pool; `freqs` float32 `[num_rows, rope_dim]`, cosines then sines
    of the angles to turn by; `shifts` uint32 `[num_shifts, 4]`, each a page,
    its first slot, one behind its last slot and the row of `freqs`. It has no
    outputs: the pool changes in place.

    Args:
        cache: The types of the cache's inputs; only the pool's matters.
        rope_dim: The elements of a head that turn; all by default.
        interleaved: Whether rotated pairs are neighbours.
        begin: The first element of a head that turns.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    freqs_shape: list[str | int] = ["num_rows", rope_dim or cache.head_dim]
    freqs_type = TensorType(DType.float32, freqs_shape, cache.device)
    shifts_type = TensorType(DType.uint32, ["num_shifts", 4], cache.device)
    with Graph(
        name,
        input_types=[cache.kv_blocks, freqs_type, shifts_type],
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        kv_blocks, freqs, shifts = graph.inputs
        ops.rope_shift(
            kv_blocks.buffer,
            freqs.tensor,
            shifts.tensor,
            interleaved=interleaved,
            begin=begin,
        )
        graph.output()
    return graph
