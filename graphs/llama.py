"""A Llama-architecture decoder whose layers keep their keys in pages.

RMSNorm, rotary embedding, grouped-query attention, SwiGLU; tied or untied
embeddings. One graph serves prefill, chunked prefill and decode, mixed in a
ragged batch.

See:
    [Llama](https://arxiv.org/abs/2302.13971), for the architecture.
"""

from max.dtype import DType
from max.graph import (
    DeviceRef,
    Graph,
    Module,
    TensorType,
    TensorValue,
    ops,
)

from kvcache import ops as cache_ops
from kvcache.flow_ops import FlowOps
from kvcache.graphs.llama_decoder import LlamaDecoder, extensions
from kvcache.graphs.ragged import row_offsets_type
from kvcache.model import LlamaConfig


def llama_graph(
    config: LlamaConfig,
    cache: cache_ops.CacheInputTypes,
    *,
    flow: FlowOps | None = None,
    sampling: bool = False,
    return_logits: bool = False,
    name: str = "llama",
    module: Module | None = None,
) -> Graph:
    """Builds the graph of one step.

    Inputs: `tokens` int64 `[total_tokens]`, `input_row_offsets` uint32
    `[batch_size + 1]`, those of the cache; with a `flow`, `ratios` float32
    `[batch_size]`; with `sampling`, `temperature` float32, `top_k` int64,
    `top_p` float32 and `seed` uint64, `[batch_size]` each. Outputs:
    `next_tokens` int64 `[batch_size]` and, with `return_logits`, `logits`
    float32 `[batch_size, vocab_size]`.

    Args:
        config: The model's sizes.
        cache: The types of the cache's inputs. Keys and values are kept in its
            dtype; attention takes its `row_dtype`, and everything else is
            computed in float32. Quantised tokens have scales of their own.
        flow: Chooses the blocks that a sequence of one new token attends to,
            `ratios` of all its blocks; the others attend to all. The cache
            has the flow's summaries, and they are kept up to date.
        sampling: Whether to sample; else the best token is taken.
        return_logits: Whether the logits are an output too.
        name: The graph's name; each in a module has its own.
        module: Collects graphs that are compiled together.

    Returns:
        The graph; its weights come from `llama_weights`.

    Raises:
        ValueError: If the cache does not fit the model.
    """
    _check_fit(config, cache)
    device = cache.device
    types = [
        TensorType(DType.int64, ["total_tokens"], device),
        row_offsets_type(device),
        *cache,
    ]
    if flow is not None:
        types.append(TensorType(DType.float32, ["batch_size"], device))
    if sampling:
        dtypes = (DType.float32, DType.int64, DType.float32, DType.uint64)
        types += [TensorType(t, ["batch_size"], device) for t in dtypes]
    with Graph(
        name,
        input_types=types,
        custom_extensions=extensions(flow),
        module=module,
    ) as graph:
        tokens, offsets, *rest = graph.inputs
        size = len(cache)
        inputs = cache_ops.CacheInputs.of(rest[:size])
        decoder = LlamaDecoder(config, cache, name=name, flow=flow)
        ratios = []
        if flow is not None:
            ratios = [rest[size].tensor]
            size += 1
        logits = decoder.logits(tokens.tensor, offsets.tensor, inputs, *ratios)
        if sampling:
            next_tokens = _sample(
                logits, *(value.tensor for value in rest[size:])
            )
        else:
            next_tokens = ops.argmax(logits, axis=-1)
        next_tokens = ops.cast(next_tokens, DType.int64).reshape(["batch_size"])
        graph.output(next_tokens, *([logits] if return_logits else []))
    return graph


def _sample(
    logits: TensorValue,
    temperature: TensorValue,
    top_k: TensorValue,
    top_p: TensorValue,
    seed: TensorValue,
) -> TensorValue:
    """Draws a token per row with MAX's own sampler; top_k 0 is no limit."""
    from max.nn.kernels import topk_fused_sampling  # takes two seconds

    return topk_fused_sampling(
        logits,
        top_k,
        temperature=temperature,
        max_k=ops.constant(-1, DType.int64, DeviceRef.CPU()),
        top_p=top_p,
        min_top_p=ops.constant(0.0, DType.float32, DeviceRef.CPU()),
        seed=seed,
    )


def _check_fit(config: LlamaConfig, cache: cache_ops.CacheInputTypes) -> None:
    """Refuses a cache with other sizes than the model's."""
    for name in ("num_layers", "num_kv_heads", "head_dim"):
        wanted, got = getattr(config, name), getattr(cache, name)
        if wanted != got:
            raise ValueError(f"wanted a cache with {name} {wanted}, got {got}")
