"""Which tensors a Llama model has, by their Hugging Face names."""

from __future__ import annotations

from collections.abc import Mapping
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
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.vocab_size, hidden)
    }
    for index in range(config.num_layers):
        for name, shape in layer.items():
            shapes[f"model.layers.{index}.{name}.weight"] = shape
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_embeddings:
        shapes[OUTPUT] = (config.vocab_size, hidden)
    return shapes


def check_shapes(
    found: Mapping[str, tuple[int, ...]],
    config: LlamaConfig,
    *,
    source: str,
    named: Mapping[str, str] | None = None,
) -> None:
    """Checks that a file holds the model's tensors and nothing else.

    Args:
        found: The shape of each tensor in the file, by Hugging Face name.
        config: What the model should look like.
        source: The file; starts the message.
        named: What the file calls a tensor, where that differs.

    Raises:
        ModelError: For the first tensor that is missing, has another shape or
            belongs to no Llama model.
    """
    wanted = weight_shapes(config)
    named = named or {}
    for name, shape in wanted.items():
        shown = named.get(name, name)
        if name not in found:
            raise ModelError(
                f"{source}: wanted a tensor {shown} of shape "
                f"{list(shape)}, got none"
            )
        if found[name] != shape:
            raise ModelError(
                f"{source}: wanted shape {list(shape)} for tensor {shown}, "
                f"got {list(found[name])}"
            )
    for name, shape in found.items():
        if name not in wanted:
            raise ModelError(
                f"{source}: wanted only the tensors of a Llama model with "
                f"{config.num_layers} layers, got also "
                f"{named.get(name, name)} of shape {list(shape)}"
            )
