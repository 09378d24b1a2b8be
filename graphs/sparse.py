"""Graphs of choosing blocks, and of attending to chosen blocks."""

from max.dtype import DType
from max.graph import Graph, Module, TensorType, TensorValue

from kvcache import ops
from kvcache.graphs.ragged import row_offsets_type


def choose_blocks_graph(
    cache: ops.CacheInputTypes,
    *,
    block_size: int,
    reserved_first: int = 1,
    reserved_last: int = 1,
    top_k: int = 0,
    name: str = "choose_blocks",
    module: Module | None = None,
) -> Graph:
    """Builds the graph that chooses.

    Inputs: those of the cache; scores float32
    `[batch_size, num_kv_heads, num_blocks]`, where `num_blocks` are the blocks
    of all columns of the lookup table; `input_row_offsets` uint32
    `[batch_size + 1]`; ratios float32 `[batch_size]`. Outputs: the ids of the
    chosen blocks, uint32 of the scores' shape, and the tokens in them, uint32
    `[batch_size]`.

    Args:
        cache: The types of the cache's inputs.
        block_size: Tokens of a block.
        reserved_first: The first blocks, which are always chosen.
        reserved_last: The last blocks, which are always chosen.
        top_k: Blocks that are chosen beside these, at least.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    device = cache.device
    types = [
        *cache,
        _per_block(cache, DType.float32),
        row_offsets_type(device),
        TensorType(DType.float32, ["batch_size"], device),
    ]
    with Graph(
        name,
        input_types=types,
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        inputs = ops.CacheInputs.of(graph.inputs[: len(cache)])
        scores, offsets, ratios = graph.inputs[len(cache) :]
        chosen = ops.choose_blocks(
            inputs,
            _fitted(inputs, scores.tensor, block_size),
            offsets.tensor,
            ratios.tensor,
            block_size=block_size,
            reserved_first=reserved_first,
            reserved_last=reserved_last,
            top_k=top_k,
        )
        graph.output(chosen.block_ids, chosen.lengths)
    return graph


def sparse_attention_graph(
    cache: ops.CacheInputTypes,
    *,
    num_q_heads: int,
    scale: float,
    block_size: int,
    layer: int = 0,
    has_sinks: bool = False,
    softcap: float | None = None,
    name: str = "sparse_attention",
    module: Module | None = None,
) -> Graph:
    """Builds the graph that attends.

    Inputs: those of the cache; queries
    `[total_tokens, num_q_heads, head_dim]`; `input_row_offsets` uint32
    `[batch_size + 1]`; the chosen blocks and the tokens in them, as
    `choose_blocks_graph` gives them; with `has_sinks`, the sinks, float32
    `[num_q_heads]`. Output: the weighted values, of the queries' shape. The
    pool must hold the new tokens already.

    Args:
        cache: The types of the cache's inputs.
        num_q_heads: Query heads on this device.
        scale: What the products of queries and keys are multiplied by.
        block_size: Tokens of a block.
        layer: The layer to read.
        has_sinks: Whether each query head has a logit without a value.
        softcap: What bounds the scores.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph.
    """
    device = cache.device
    shape: list[str | int] = ["total_tokens", num_q_heads, cache.head_dim]
    types = [
        *cache,
        TensorType(cache.row_dtype, shape, device),
        row_offsets_type(device),
        _per_block(cache, DType.uint32),
        TensorType(DType.uint32, ["batch_size"], device),
    ]
    if has_sinks:
        types.append(TensorType(DType.float32, [num_q_heads], device))
    with Graph(
        name,
        input_types=types,
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        inputs = ops.CacheInputs.of(graph.inputs[: len(cache)])
        queries, offsets, ids, lengths, *sinks = graph.inputs[len(cache) :]
        output = ops.sparse_attention(
            inputs,
            queries.tensor,
            offsets.tensor,
            ops.ChosenBlocks(
                _fitted(inputs, ids.tensor, block_size), lengths.tensor
            ),
            layer=layer,
            scale=scale,
            block_size=block_size,
            sinks=sinks[0].tensor if sinks else None,
            softcap=softcap,
        )
        graph.output(output)
    return graph


def _per_block(cache: ops.CacheInputTypes, dtype: DType) -> TensorType:
    """Returns the type of a number of each block."""
    shape: list[str | int] = ["batch_size", cache.num_kv_heads, "num_blocks"]
    return TensorType(dtype, shape, cache.device)


def _fitted(
    cache: ops.CacheInputs, value: TensorValue, block_size: int
) -> TensorValue:
    """Returns a tensor whose blocks are those of the table's columns.

    The graph fails where it runs if they are not.
    """
    per_page = cache.page_size // block_size
    return value.rebind(
        [*value.shape[:2], cache.lookup_table.shape[1] * per_page]
    )
