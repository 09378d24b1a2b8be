"""Reads a Llama model from a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kvcache.model.config import LlamaConfig
from kvcache.model.dequantise import compute_all
from kvcache.model.error import ModelError
from kvcache.model.fields import Fields
from kvcache.model.hf_tokenizer import tokenizer_from_folder
from kvcache.model.rope import LinearScaling, Llama3Scaling, RopeScaling
from kvcache.model.safetensors_file import StoredTensor, read_safetensors
from kvcache.model.weights import OUTPUT, LlamaModel, check_shapes

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_UNSUPPORTED: Final = {
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "partial_rotary_factor": 1,
    "sliding_window": None,
    "num_local_experts": None,
    "quantization_config": None,
}
"""What we do not compute, and the one value under which it is absent."""


def load_folder(folder: Path) -> LlamaModel:
    """Reads a folder: config, float32 weights and, where there, tokenizer.

    Args:
        folder: Holds `config.json` and `model.safetensors`, or the shards that
            `model.safetensors.index.json` names; maybe `tokenizer.json`.

    Returns:
        The model.

    Raises:
        ModelError: If a file is missing or damaged, the model is no Llama, or
            it uses something that we do not compute.
    """
    fields = Fields.from_json(folder / _CONFIG)
    config = config_from_fields(fields)
    tensors = {
        name: tensor
        for name, tensor in _read_tensors(folder).items()
        if not name.endswith("rotary_emb.inv_freq")
        and not (config.tie_embeddings and name == OUTPUT)
    }
    check_shapes(
        {name: tensor.shape for name, tensor in tensors.items()},
        config,
        source=str(folder),
    )
    weights = compute_all(
        {name: tensor.read for name, tensor in tensors.items()}
    )
    tokenizer = tokenizer_from_folder(folder, fields, config.vocab_size)
    return LlamaModel(config, weights, tokenizer)


def config_from_fields(fields: Fields) -> LlamaConfig:
    """Reads what `config.json` says of a Llama model.

    A key that is absent has the value that the transformers library gives it.

    Raises:
        ModelError: If the model is not a Llama, a value is missing, or one asks
            for something that we do not compute.
    """
    if (kind := fields.text("model_type")) != "llama":
        raise ModelError(
            f"{fields.source}: wanted the model_type llama, got {kind}"
        )
    for key, value in _UNSUPPORTED.items():
        if key in fields and fields[key] != value:
            raise ModelError(
                f"{fields.source}: wanted {key} {value!r} (anything else is "
                f"unsupported), got {str(fields[key])[:60]!r}"
            )
    hidden_size = fields.integer("hidden_size")
    num_q_heads = fields.integer("num_attention_heads")
    if num_q_heads < 1:
        raise ModelError(
            f"{fields.source}: wanted a positive num_attention_heads, got "
            f"{num_q_heads}"
        )
    rope = fields.object("rope_parameters")
    theta = fields.number("rope_theta", 10_000.0)
    return LlamaConfig(
        num_layers=fields.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        num_q_heads=num_q_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_q_heads),
        head_dim=fields.integer("head_dim", hidden_size // num_q_heads),
        intermediate_size=fields.integer("intermediate_size"),
        vocab_size=fields.integer("vocab_size"),
        max_seq_len=fields.integer("max_position_embeddings", 2048),
        rope_theta=rope.number("rope_theta", theta) if rope else theta,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        tie_embeddings=fields.flag("tie_word_embeddings", False),
        rope_scaling=_rope_scaling(rope or fields.object("rope_scaling")),
    )


def _rope_scaling(rope: Fields | None) -> RopeScaling | None:
    """Reads `rope_scaling`, or what newer files call `rope_parameters`."""
    if rope is None:
        return None
    kind = rope.optional_text("rope_type") or rope.text("type", "default")
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(rope.number("factor"))
    if kind == "llama3":
        return Llama3Scaling(
            factor=rope.number("factor"),
            low_freq_factor=rope.number("low_freq_factor"),
            high_freq_factor=rope.number("high_freq_factor"),
            original_max_seq_len=rope.integer(
                "original_max_position_embeddings"
            ),
        )
    raise ModelError(
        f"{rope.source}: wanted rope scaling default, linear or llama3, "
        f"got {kind}"
    )


def _read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of the one file, or of every shard."""
    if not (folder / _INDEX).exists():
        return read_safetensors(folder / _WEIGHTS)
    index = Fields.from_json(folder / _INDEX)
    shard_of = index.object("weight_map")
    if shard_of is None:
        raise ModelError(f"{index.source}: wanted a weight_map, got nothing")
    tensors: dict[str, StoredTensor] = {}
    shards: dict[str, dict[str, StoredTensor]] = {}
    for name in shard_of:
        shard = shard_of.text(name)
        if Path(shard).name != shard:
            raise ModelError(
                f"{index.source}: wanted a file name for {name}, got {shard!r}"
            )
        if shard not in shards:
            shards[shard] = read_safetensors(folder / shard)
        if name not in shards[shard]:
            raise ModelError(
                f"{folder / shard}: wanted a tensor {name}, got none"
            )
        tensors[name] = shards[shard][name]
    return tensors
