"""Reads a Llama model from a GGUF file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from kvcache.model.config import LlamaConfig
from kvcache.model.dequantise import (
    check_types,
    compute_all,
    dequantise,
    stored_rows,
)
from kvcache.model.error import ModelError
from kvcache.model.fields import Fields
from kvcache.model.gguf_file import GgufFile, read_gguf
from kvcache.model.gguf_tokenizer import tokenizer_from_gguf
from kvcache.model.rope import DivisorScaling, LinearScaling, RopeScaling
from kvcache.model.weights import (
    EMBEDDING,
    OUTPUT,
    LlamaModel,
    Weights,
    check_shapes,
)

_ROPE_DIVISORS = "rope_freqs.weight"
_UNSUPPORTED = (
    "llama.expert_count",
    "llama.attention.sliding_window",
    "llama.attention.scale",
    "llama.attention.clamp_kqv",
    "llama.rope.scale_linear",  # the oldest files' rope scaling
)
_OUTER_NAMES: Final = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": "model.norm.weight",
    "output.weight": OUTPUT,
}
_LAYER_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load_gguf(path: Path) -> LlamaModel:
    """Reads a GGUF file: config, float32 weights and tokenizer.

    Args:
        path: The file.

    Returns:
        The model, its Q and K rows put back into half-split RoPE order.

    Raises:
        ModelError: If the file is no GGUF file of a Llama model, or uses
            something that we do not compute.
    """
    file = read_gguf(path)
    check_types(file)
    fields = Fields(file.metadata, str(path))
    config = config_from_gguf(file, fields)
    weights = _read_weights(file, config)
    return LlamaModel(
        config, weights, tokenizer_from_gguf(fields, config.vocab_size)
    )


def config_from_gguf(file: GgufFile, fields: Fields) -> LlamaConfig:
    """Reads the metadata that describes the model.

    Raises:
        ModelError: If the architecture is not Llama, a value is missing, or one
            asks for something that we do not compute.
    """
    if (kind := fields.text("general.architecture")) != "llama":
        raise ModelError(
            f"{fields.source}: wanted the architecture llama, got {kind}"
        )
    _refuse_unsupported(fields)
    hidden_size = fields.integer("llama.embedding_length")
    num_q_heads = fields.integer("llama.attention.head_count")
    if num_q_heads < 1:
        raise ModelError(
            f"{fields.source}: wanted a positive llama.attention.head_count, "
            f"got {num_q_heads}"
        )
    head_dim = fields.integer(
        "llama.attention.key_length", hidden_size // num_q_heads
    )
    _check_equal(fields, "llama.attention.value_length", head_dim)
    _check_equal(fields, "llama.rope.dimension_count", head_dim)
    return LlamaConfig(
        num_layers=fields.integer("llama.block_count"),
        hidden_size=hidden_size,
        num_q_heads=num_q_heads,
        num_kv_heads=fields.integer(
            "llama.attention.head_count_kv", num_q_heads
        ),
        head_dim=head_dim,
        intermediate_size=fields.integer("llama.feed_forward_length"),
        vocab_size=_vocab_size(file, fields),
        max_seq_len=fields.integer("llama.context_length"),
        rope_theta=fields.number("llama.rope.freq_base", 10_000.0),
        rms_norm_eps=fields.number("llama.attention.layer_norm_rms_epsilon"),
        tie_embeddings="output.weight" not in file.tensors,
        rope_scaling=_rope_scaling(file, fields),
    )


def _refuse_unsupported(fields: Fields) -> None:
    for key in _UNSUPPORTED:
        if value := fields[key]:
            raise ModelError(
                f"{fields.source}: wanted no {key} (unsupported), got {value}"
            )
    if (parts := fields.integer("split.count", 1)) > 1:
        raise ModelError(
            f"{fields.source}: wanted a model in one file, got one of {parts}"
        )


def _check_equal(fields: Fields, key: str, head_dim: int) -> None:
    if (value := fields.integer(key, head_dim)) != head_dim:
        raise ModelError(
            f"{fields.source}: wanted {key} to be the head_dim {head_dim}, "
            f"got {value}"
        )


def _vocab_size(file: GgufFile, fields: Fields) -> int:
    embedding = file.tensors.get("token_embd.weight")
    rows = embedding.shape[0] if embedding and embedding.shape else None
    size = fields.integer("llama.vocab_size", rows)
    if size is None:
        raise ModelError(
            f"{fields.source}: wanted a tensor token_embd.weight, got none"
        )
    return size


def _rope_scaling(file: GgufFile, fields: Fields) -> RopeScaling | None:
    kind = fields.text("llama.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise ModelError(
            f"{fields.source}: wanted rope scaling none or linear, got {kind}"
        )
    divisors = file.tensors.get(_ROPE_DIVISORS)
    if kind == "linear":
        if divisors is not None:
            raise ModelError(
                f"{fields.source}: wanted linear rope scaling or "
                f"{_ROPE_DIVISORS}, got both"
            )
        return LinearScaling(fields.number("llama.rope.scaling.factor"))
    if divisors is None:
        return None
    values = dequantise(
        stored_rows(file, _ROPE_DIVISORS), divisors.type_id, _ROPE_DIVISORS
    )
    return DivisorScaling(tuple(values.ravel().tolist()))


def hugging_face_name(name: str) -> str | None:
    """Returns what Hugging Face calls a GGUF tensor, None if it has no name."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in _LAYER_NAMES:
            return f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"
    return None


def gguf_name(name: str) -> str:
    """Returns what GGUF calls a Hugging Face tensor; others stay as named."""
    for theirs, ours in _OUTER_NAMES.items():
        if ours == name:
            return theirs
    for theirs, ours in _LAYER_NAMES.items():
        if name.startswith("model.layers.") and name.endswith(
            f".{ours}.weight"
        ):
            return f"blk.{name.split('.')[2]}.{theirs}.weight"
    return name


def half_split_rows(num_heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """Returns where GGUF keeps each row of a Q or K projection.

    GGUF keeps the rows of a head so that rotated pairs are neighbours:
    row `2 i + j` there is row `i + j * head_dim / 2` in half-split order.

    Returns:
        The GGUF row of each half-split row, `[num_heads * head_dim]`.
    """
    rows = np.arange(num_heads * head_dim)
    return rows.reshape(num_heads, head_dim // 2, 2).swapaxes(1, 2).ravel()


def _read_weights(file: GgufFile, config: LlamaConfig) -> Weights:
    stored = {
        hugging_face_name(name) or name: name
        for name in file.tensors
        if name != _ROPE_DIVISORS
    }
    check_shapes(
        {ours: file.tensors[name].shape for ours, name in stored.items()},
        config,
        source=str(file.path),
        spell=gguf_name,
    )
    return compute_all(
        {
            ours: partial(_read_tensor, file, name, config)
            for ours, name in stored.items()
        }
    )


def _read_tensor(
    file: GgufFile, name: str, config: LlamaConfig
) -> npt.NDArray[np.float32]:
    tensor = file.tensors[name]
    rows = stored_rows(file, name)
    # Whole rows are stored together, so bytes can be moved before they grow.
    if name.endswith("attn_q.weight"):
        rows = rows[half_split_rows(config.num_q_heads, config.head_dim)]
    elif name.endswith("attn_k.weight"):
        rows = rows[half_split_rows(config.num_kv_heads, config.head_dim)]
    return dequantise(rows, tensor.type_id, name).reshape(tensor.shape)
