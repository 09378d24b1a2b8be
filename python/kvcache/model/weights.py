"""Which tensors a Llama model has, by their Hugging Face names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.model.config import LlamaConfig
from kvcache.model.error import ModelError
from kvcache.model.tokenizer import Tokenizer

Weights: TypeAlias = dict[str, npt.NDArray[np.float32]]
"""Tensors by Hugging Face name; a projection is `[out, in]`, row-major."""

EMBEDDING = "model.embed_tokens.weight"
"""Name of the embedding, `[vocab_size, hidden_size]`."""
OUTPUT = "lm_head.weight"
"""Name of the output projection, absent where embeddings are tied."""


@dataclass(frozen=True, slots=True, eq=False)
class LlamaModel:
    """A model as it was read, on the host."""

    config: LlamaConfig
    """Its shape and constants."""
    weights: Weights
    """Its tensors in float32; rows of Q and K in half-split RoPE order."""
    tokenizer: Tokenizer | None = None
    """Its tokenizer, None where none came with it."""


def weight_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor that the model needs."""
    return dict(_shapes(config))


def _shapes(config: LlamaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields names and shapes; a damaged file may ask for endless layers."""
    hidden, inner = config.hidden_size, config.intermediate_size
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (config.q_size, hidden),
        "self_attn.k_proj": (config.kv_size, hidden),
        "self_attn.v_proj": (config.kv_size, hidden),
        "self_attn.o_proj": (hidden, config.q_size),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    yield EMBEDDING, (config.vocab_size, hidden)
    for index in range(config.num_layers):
        for name, shape in layer.items():
            yield f"model.layers.{index}.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    if not config.tie_embeddings:
        yield OUTPUT, (config.vocab_size, hidden)


def check_shapes(
    found: Mapping[str, tuple[int, ...]],
    config: LlamaConfig,
    *,
    source: str,
    spell: Callable[[str], str] = str,
) -> None:
    """Checks that a file holds the model's tensors and nothing else.

    Args:
        found: The shape of each tensor in the file, by Hugging Face name.
        config: What the model should look like.
        source: The file; starts the message.
        spell: Gives what the file calls a tensor.

    Raises:
        ModelError: For the first tensor that is missing, has another shape or
            belongs to no Llama model.
    """
    wanted = set()
    for name, shape in _shapes(config):
        wanted.add(name)
        if name not in found:
            raise ModelError(
                f"{source}: wanted a tensor {spell(name)} of shape "
                f"{list(shape)}, got none"
            )
        if found[name] != shape:
            raise ModelError(
                f"{source}: wanted shape {list(shape)} for tensor "
                f"{spell(name)}, got {list(found[name])}"
            )
    for name, shape in found.items():
        if name not in wanted:
            raise ModelError(
                f"{source}: wanted only the tensors of a Llama model with "
                f"{config.num_layers} layers, got also {spell(name)} of shape "
                f"{list(shape)}"
            )
