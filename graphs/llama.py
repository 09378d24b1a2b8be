"""A Llama-architecture decoder whose layers keep their keys in pages.

RMSNorm, rotary embedding, grouped-query attention, SwiGLU; tied or untied
embeddings. One graph serves prefill, chunked prefill and decode, mixed in a
ragged batch.

See:
    [Llama](https://arxiv.org/abs/2302.13971), for the architecture.
"""

import numpy as np
import numpy.typing as npt
from max.dtype import DType
from max.graph import (
    BufferValue,
    DeviceRef,
    Dim,
    Graph,
    Module,
    TensorType,
    TensorValue,
    Weight,
    ops,
)

from kvcache import ops as cache_ops
from kvcache.graphs.ragged import row_offsets_type
from kvcache.model import LlamaConfig

Array = npt.NDArray[np.float32]

EMBEDDING = "embed_tokens"
FREQS = "freqs"
FINAL_NORM = "norm"
LM_HEAD = "lm_head"


def llama_weights(
    config: LlamaConfig, weights: dict[str, Array]
) -> dict[str, Array]:
    """Prepares a model's weights for the graph.

    Matrices are turned so that a row of activations times a matrix is a row,
    which is the order that the CPU's matrix product reads fastest for few
    rows. Projections of the same input are put side by side.

    Args:
        config: The model's sizes.
        weights: Hugging Face names to float32 arrays, queries and keys in
            half-split order.

    Returns:
        The registry for `InferenceSession.load`.
    """
    embedding = weights["model.embed_tokens.weight"]
    head = embedding if config.tie_embeddings else weights["lm_head.weight"]
    registry = {
        EMBEDDING: embedding,
        FREQS: rope_freqs(config),
        FINAL_NORM: weights["model.norm.weight"],
        LM_HEAD: _turned(head),
    }
    for layer in range(config.num_layers):
        own = f"model.layers.{layer}."
        attention = f"{own}self_attn."
        qkv = [weights[f"{attention}{x}_proj.weight"] for x in "qkv"]
        gate_up = [weights[f"{own}mlp.{x}_proj.weight"] for x in ("gate", "up")]
        registry |= {
            f"{layer}.input_norm": weights[f"{own}input_layernorm.weight"],
            f"{layer}.qkv": _turned(*qkv),
            f"{layer}.o": _turned(weights[f"{attention}o_proj.weight"]),
            f"{layer}.mlp_norm": weights[
                f"{own}post_attention_layernorm.weight"
            ],
            f"{layer}.gate_up": _turned(*gate_up),
            f"{layer}.down": _turned(weights[f"{own}mlp.down_proj.weight"]),
        }
    return registry


def rope_freqs(config: LlamaConfig) -> Array:
    """Returns the cosines, then the sines, of every position.

    Args:
        config: The model's sizes.

    Returns:
        float32 `[max_seq_len, head_dim]`, computed in float64.
    """
    positions = np.arange(config.max_seq_len, dtype=np.float64)
    angles = np.outer(positions, config.rope_inverse_frequencies())
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return table.astype(np.float32)


def llama_graph(
    config: LlamaConfig,
    cache: cache_ops.CacheInputTypes,
    *,
    sampling: bool = False,
    return_logits: bool = False,
    name: str = "llama",
    module: Module | None = None,
) -> Graph:
    """Builds the graph of one step.

    Inputs: `tokens` int64 `[total_tokens]`, `input_row_offsets` uint32
    `[batch_size + 1]`, those of the cache and, with `sampling`,
    `temperature` float32, `top_k` int64, `top_p` float32 and `seed` uint64,
    `[batch_size]` each. Outputs: `next_tokens` int64 `[batch_size]` and, with
    `return_logits`, `logits` float32 `[batch_size, vocab_size]`.

    Args:
        config: The model's sizes.
        cache: The types of the cache's inputs. Keys and values are kept in its
            dtype; attention takes its `row_dtype`, and everything else is
            computed in float32. Quantised tokens have scales of their own.
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
    if sampling:
        dtypes = (DType.float32, DType.int64, DType.float32, DType.uint64)
        types += [TensorType(t, ["batch_size"], device) for t in dtypes]
    with Graph(
        name,
        input_types=types,
        custom_extensions=[cache_ops.precompiled_package()],
        module=module,
    ) as graph:
        tokens, offsets, *rest = graph.inputs
        size = len(cache)
        decoder = _Decoder(config, cache, name=name)
        logits = decoder.logits(
            tokens.tensor,
            offsets.tensor,
            cache_ops.CacheInputs.of(rest[:size]),
        )
        if sampling:
            next_tokens = _sample(
                logits, *(value.tensor for value in rest[size:])
            )
        else:
            next_tokens = ops.argmax(logits, axis=-1)
        next_tokens = ops.cast(next_tokens, DType.int64).reshape(["batch_size"])
        graph.output(next_tokens, *([logits] if return_logits else []))
    return graph


class _Decoder:
    """Adds the layers of a model to the current graph.

    A layer is a subgraph that is called once per layer with that layer's
    weights: it is traced and compiled once.
    """

    def __init__(
        self,
        config: LlamaConfig,
        cache: cache_ops.CacheInputTypes,
        *,
        name: str,
    ) -> None:
        self._name = name
        self._config = config
        self._cache_types = cache
        self._device = cache.device

    def logits(
        self,
        tokens: TensorValue,
        offsets: TensorValue,
        cache: cache_ops.CacheInputs,
    ) -> TensorValue:
        """Returns the logits behind the last token of each sequence."""
        config = self._config
        vocabulary = [config.vocab_size, config.hidden_size]
        embedding = self._weight(EMBEDDING, vocabulary)
        freqs = self._weight(FREQS, [config.max_seq_len, config.head_dim])
        hidden = ops.gather(embedding, tokens, axis=0)
        workspace = cache_ops.attention_workspace(cache, config.num_q_heads)
        block = self._layer_subgraph(hidden.type)
        for layer in range(config.num_layers):
            (result,) = ops.call(
                block,
                hidden,
                offsets,
                *cache.values,
                freqs,
                ops.constant(layer, DType.uint32, DeviceRef.CPU()),
                workspace,
                *(
                    self._weight(f"{layer}.{name}", shape)
                    for name, shape in layer_shapes(config).items()
                ),
            )
            hidden = result.tensor
        last = ops.cast(offsets[1:], DType.int64).rebind(["batch_size"]) - 1
        hidden = ops.rms_norm(
            ops.gather(hidden, last, axis=0),
            self._weight(FINAL_NORM, [config.hidden_size]),
            config.rms_norm_eps,
        )
        return hidden @ self._weight(LM_HEAD, vocabulary[::-1])

    def _layer_subgraph(self, hidden_type: TensorType) -> Graph:
        """Traces the layer that all calls share."""
        config = self._config
        freqs_shape = [config.max_seq_len, config.head_dim]
        shapes = layer_shapes(config)
        types = [
            hidden_type,
            row_offsets_type(self._device),
            *self._cache_types,
            TensorType(DType.float32, freqs_shape, self._device),
            TensorType(DType.uint32, [], DeviceRef.CPU()),
            cache_ops.attention_workspace_type(
                self._cache_types, config.num_q_heads
            ),
            *(
                TensorType(DType.float32, shape, self._device)
                for shape in shapes.values()
            ),
        ]
        parent: Graph = Graph.current
        with parent.add_subgraph(
            f"{self._name}_layer",
            input_types=types,
            custom_extensions=[cache_ops.precompiled_package()],
        ) as block:
            hidden, offsets, *rest = block.inputs
            size = len(self._cache_types)
            freqs, layer = rest[size].tensor, rest[size + 1].tensor
            weights = (value.tensor for value in rest[size + 3 :])
            named = dict(zip(shapes, weights, strict=True))
            block.output(
                self._layer(
                    hidden.tensor,
                    offsets.tensor,
                    cache_ops.CacheInputs.of(rest[:size]),
                    freqs=freqs,
                    layer=layer,
                    workspace=rest[size + 2].buffer,
                    weights=named,
                )
            )
        return block

    def _layer(
        self,
        hidden: TensorValue,
        offsets: TensorValue,
        cache: cache_ops.CacheInputs,
        *,
        freqs: TensorValue,
        layer: TensorValue,
        workspace: BufferValue,
        weights: dict[str, TensorValue],
    ) -> TensorValue:
        """Returns what one layer makes of its input."""
        config = self._config
        normed = ops.rms_norm(
            hidden, weights["input_norm"], config.rms_norm_eps
        )
        qkv = ops.cast(normed @ weights["qkv"], self._cache_types.row_dtype)
        queries = cache_ops.rope_store(cache, qkv, freqs, offsets, layer=layer)
        mixed = cache_ops.attention(
            *(cache, queries, offsets),
            layer=layer,
            scale=config.head_dim**-0.5,
            workspace=workspace,
        )
        rows: list[Dim | int] = [hidden.shape[0], config.q_size]
        flat = ops.cast(mixed, DType.float32).reshape(rows)
        hidden = hidden + flat @ weights["o"]
        normed = ops.rms_norm(hidden, weights["mlp_norm"], config.rms_norm_eps)
        both = normed @ weights["gate_up"]
        wide = config.intermediate_size
        gate, up = both[:, :wide], both[:, wide:]
        added: TensorValue = (ops.silu(gate) * up) @ weights["down"]
        return hidden + added

    def _weight(self, name: str, shape: list[int]) -> TensorValue:
        """Adds a weight that is given when the graph is loaded."""
        graph: Graph = Graph.current
        weight = Weight(name, DType.float32, shape, self._device)
        value: TensorValue = graph.add_weight(weight)
        return value


def layer_shapes(config: LlamaConfig) -> dict[str, list[int]]:
    """Returns the names and shapes of one layer's weights, in order.

    Args:
        config: The model's sizes.

    Returns:
        Names as `llama_weights` gives them, less the layer's number.
    """
    hidden, wide = config.hidden_size, config.intermediate_size
    return {
        "input_norm": [hidden],
        "qkv": [hidden, config.q_size + 2 * config.kv_size],
        "o": [config.q_size, hidden],
        "mlp_norm": [hidden],
        "gate_up": [hidden, 2 * wide],
        "down": [wide, hidden],
    }


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


def _turned(*matrices: Array) -> Array:
    """Puts matrices side by side, inputs along the first axis."""
    return np.ascontiguousarray(np.concatenate(matrices).T)
