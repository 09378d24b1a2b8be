"""The layers of a Llama-architecture decoder.

RMSNorm, rotary embedding, grouped-query attention, SwiGLU.
"""

from pathlib import Path

from max.dtype import DType
from max.graph import (
    BufferValue,
    DeviceRef,
    Dim,
    Graph,
    TensorType,
    TensorValue,
    Weight,
    ops,
)

from kvcache import ops as cache_ops
from kvcache.flow_ops import FlowOps
from kvcache.graphs.llama_weights import (
    EMBEDDING,
    FINAL_NORM,
    FREQS,
    LM_HEAD,
    layer_shapes,
)
from kvcache.graphs.ragged import row_offsets_type
from kvcache.model import LlamaConfig


class LlamaDecoder:
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
        flow: FlowOps | None,
    ) -> None:
        self._name = name
        self._flow = flow
        self._config = config
        self._cache_types = cache
        self._device = cache.device

    def logits(
        self,
        tokens: TensorValue,
        offsets: TensorValue,
        cache: cache_ops.CacheInputs,
        *ratios: TensorValue,
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
                *ratios,
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
            *self._ratios_type(),
            *(
                TensorType(DType.float32, shape, self._device)
                for shape in shapes.values()
            ),
        ]
        parent: Graph = Graph.current
        with parent.add_subgraph(
            f"{self._name}_layer",
            input_types=types,
            custom_extensions=extensions(self._flow),
        ) as block:
            hidden, offsets, *rest = block.inputs
            size = len(self._cache_types)
            freqs, layer = rest[size].tensor, rest[size + 1].tensor
            behind = size + 3 + len(self._ratios_type())
            weights = (value.tensor for value in rest[behind:])
            named = dict(zip(shapes, weights, strict=True))
            block.output(
                self._layer(
                    hidden.tensor,
                    offsets.tensor,
                    cache_ops.CacheInputs.of(rest[:size]),
                    freqs=freqs,
                    layer=layer,
                    workspace=rest[size + 2].buffer,
                    ratios=[value.tensor for value in rest[size + 3 : behind]],
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
        ratios: list[TensorValue],
        weights: dict[str, TensorValue],
    ) -> TensorValue:
        """Returns what one layer makes of its input."""
        config = self._config
        normed = ops.rms_norm(
            hidden, weights["input_norm"], config.rms_norm_eps
        )
        qkv = ops.cast(normed @ weights["qkv"], self._cache_types.row_dtype)
        queries = cache_ops.rope_store(
            cache, qkv, freqs, offsets, layer=layer, flow=self._flow
        )
        scale = config.head_dim**-0.5
        if self._flow is None:
            mixed = cache_ops.attention(
                *(cache, queries, offsets),
                layer=layer,
                scale=scale,
                workspace=workspace,
            )
        else:
            mixed = cache_ops.flow_attention(
                cache,
                self._flow,
                queries,
                offsets,
                *ratios,
                layer=layer,
                scale=scale,
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

    def _ratios_type(self) -> list[TensorType]:
        """Returns the type of the layer's input that only flows have."""
        if self._flow is None:
            return []
        return [TensorType(DType.float32, ["batch_size"], self._device)]

    def _weight(self, name: str, shape: list[int]) -> TensorValue:
        """Adds a weight that is given when the graph is loaded."""
        graph: Graph = Graph.current
        weight = Weight(name, DType.float32, shape, self._device)
        value: TensorValue = graph.add_weight(weight)
        return value


def extensions(flow: FlowOps | None) -> list[Path]:
    """Returns the compiled kernels that a graph needs.

    Args:
        flow: The flow that it uses, if it does.
    """
    own = [] if flow is None else [flow.extension]
    return [cache_ops.precompiled_package(), *own]
