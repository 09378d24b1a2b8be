"""A Llama model's weights, as its graph wants them."""

import numpy as np
import numpy.typing as npt

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


def _turned(*matrices: Array) -> Array:
    """Puts matrices side by side, inputs along the first axis."""
    return np.ascontiguousarray(np.concatenate(matrices).T)
