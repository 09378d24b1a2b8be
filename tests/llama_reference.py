"""What a Llama model means, in NumPy: slow, obvious, one head at a time.

It keeps every key and value in plain arrays and knows no page. Graphs and loops
are held against it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcache.model import LlamaConfig, LlamaModel

Floats = npt.NDArray[Any]

Sees = Callable[[Floats, Floats], npt.NDArray[np.bool_]]
"""Which keys `[n, head_dim]` the queries `[group, head_dim]` of one token and
key-value head attend to."""


class LlamaReference:
    """One sequence of one model, with its keys and values so far.

    Args:
        model: The weights.
        dtype: What everything is computed in: float32 or float64.
        sees: What a token that is fed alone attends to; all keys if None.
    """

    def __init__(
        self,
        model: LlamaModel,
        dtype: npt.DTypeLike = np.float64,
        *,
        sees: Sees | None = None,
    ) -> None:
        self._sees = sees
        self.config: LlamaConfig = model.config
        self.dtype = np.dtype(dtype)
        self.weights = {
            name: array.astype(dtype, copy=False)
            for name, array in model.weights.items()
        }
        empty = (0, self.config.num_kv_heads, self.config.head_dim)
        self.keys = [np.empty(empty, dtype)] * self.config.num_layers
        self.values = [np.empty(empty, dtype)] * self.config.num_layers

    @property
    def length(self) -> int:
        """Tokens whose keys and values are known."""
        return len(self.keys[0])

    def feed(self, tokens: Sequence[int]) -> Floats:
        """Returns the logits after each of the next tokens, `[n, vocab]`."""
        hidden = self.weights["model.embed_tokens.weight"][list(tokens)]
        positions = np.arange(self.length, self.length + len(tokens))
        for layer in range(self.config.num_layers):
            hidden = hidden + self._attention(layer, hidden, positions)
            hidden = hidden + self._feed_forward(layer, hidden)
        hidden = self._norm("model.norm", hidden)
        output = (
            "model.embed_tokens.weight"
            if self.config.tie_embeddings
            else "lm_head.weight"
        )
        return hidden @ self.weights[output].T

    def _norm(self, name: str, x: Floats) -> Floats:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        eps = self.dtype.type(self.config.rms_norm_eps)
        return x / np.sqrt(mean_square + eps) * self.weights[f"{name}.weight"]

    def _rotate(self, x: Floats, positions: npt.NDArray[np.intp]) -> Floats:
        """Turns each pair `(i, i + head_dim / 2)` by its angle."""
        frequencies = self.config.rope_inverse_frequencies()
        angles = positions[:, None, None] * frequencies
        cosine = np.cos(angles).astype(self.dtype)
        sine = np.sin(angles).astype(self.dtype)
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate(
            [first * cosine - second * sine, second * cosine + first * sine],
            axis=-1,
        )

    def _attention(
        self, layer: int, x: Floats, positions: npt.NDArray[np.intp]
    ) -> Floats:
        config, prefix = self.config, f"model.layers.{layer}"
        x = self._norm(f"{prefix}.input_layernorm", x)

        def heads(name: str) -> Floats:
            weight = self.weights[f"{prefix}.self_attn.{name}.weight"]
            return (x @ weight.T).reshape(len(x), -1, config.head_dim)

        query = self._rotate(heads("q_proj"), positions)
        key = self._rotate(heads("k_proj"), positions)
        keys = np.concatenate([self.keys[layer], key])
        values = np.concatenate([self.values[layer], heads("v_proj")])
        self.keys[layer], self.values[layer] = keys, values

        later = np.arange(len(keys)) > positions[:, None]
        out = np.empty_like(query)
        for head in range(config.num_q_heads):
            size = config.num_q_heads // config.num_kv_heads
            kv_head = head // size
            scores = query[:, head] @ keys[:, kv_head].T
            scores /= self.dtype.type(np.sqrt(config.head_dim))
            scores[later] = -np.inf
            if self._sees is not None and len(x) == 1:
                group = slice(head // size * size, (head // size + 1) * size)
                seen = self._sees(query[0, group], keys[:, kv_head])
                scores[0, ~seen] = -np.inf
            out[:, head] = softmax(scores) @ values[:, kv_head]
        weight = self.weights[f"{prefix}.self_attn.o_proj.weight"]
        return out.reshape(len(x), -1) @ weight.T

    def _feed_forward(self, layer: int, x: Floats) -> Floats:
        prefix = f"model.layers.{layer}"
        x = self._norm(f"{prefix}.post_attention_layernorm", x)
        gate = x @ self.weights[f"{prefix}.mlp.gate_proj.weight"].T
        up = x @ self.weights[f"{prefix}.mlp.up_proj.weight"].T
        silu = gate / (1 + np.exp(-gate))
        return (silu * up) @ self.weights[f"{prefix}.mlp.down_proj.weight"].T


def softmax(scores: Floats) -> Floats:
    """Returns the softmax of each row."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def greedy(
    model: LlamaModel,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    dtype: npt.DTypeLike = np.float64,
    sees: Sees | None = None,
) -> list[int]:
    """Returns the most likely continuation of a prompt, a stop id included."""
    reference = LlamaReference(model, dtype, sees=sees)
    tokens: list[int] = []
    logits = reference.feed(prompt)
    while len(tokens) < max_new_tokens:
        tokens.append(int(logits[-1].argmax()))
        if tokens[-1] in stop_ids:
            break
        logits = reference.feed(tokens[-1:])
    return tokens
