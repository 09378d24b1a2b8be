"""Models for tests, each written as a Hugging Face folder.

`write_small_llama` makes a random one out of nothing. `write_stories260k` turns
the llama2.c checkpoint of `../shared/data` into one: real text, instantly.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcache.model import LlamaConfig, LlamaModel, weight_shapes
from kvcache.model.token_bytes import byte_level_alphabet
from llama2c import read_checkpoint, read_tokenizer

Arrays = dict[str, npt.NDArray[np.float32]]

SMALL_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Tokens 0, 1 and 2 of a small model; 1 is its start, 2 its end."""

SMALL_MERGES = "Ġ t|h e|i n|Ġ a|Ġt he|r e|o n|e r|Ġ s|a t|in g|o u|n d|l l"

STORIES260K_SIZES = {
    "num_layers": 5,
    "hidden_size": 64,
    "num_q_heads": 8,
    "num_kv_heads": 4,
    "intermediate_size": 172,
    "vocab_size": 512,
}
"""In what stories260K differs from `small_config`, but for its embeddings."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_config(**changes: Any) -> LlamaConfig:
    """A few layers, two query heads a KV head, 300 tokens of vocabulary.

    Args:
        changes: Fields that shall differ.
    """
    fields: dict[str, Any] = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_q_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": 300,
        "max_seq_len": 512,
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-5,
        "tie_embeddings": False,
    }
    return LlamaConfig(**(fields | changes))


def random_weights(config: LlamaConfig, seed: int = 0) -> Arrays:
    """Draws weights whose greedy tokens are varied and depend on all before.

    Attention is sharp and writes louder into the residual stream than the
    embedding: without that a random model soon says one token for ever.
    """
    rng = np.random.default_rng(seed)
    gains = {"q_proj": 2.5, "k_proj": 2.5, "o_proj": 3, "down_proj": 3}
    weights: Arrays = {}
    for name, shape in weight_shapes(config).items():
        drawn = rng.standard_normal(shape, np.float32)
        if len(shape) == 1:
            weights[name] = 1 + drawn / 10
        elif name == "model.embed_tokens.weight":
            weights[name] = drawn * np.float32(0.3)
        else:
            gain = gains.get(name.split(".")[-2], 1.0)
            weights[name] = drawn * np.float32(gain / np.sqrt(shape[1]))
    if not config.tie_embeddings:
        weights["lm_head.weight"] *= 4
    return weights


def small_llama(seed: int = 0, **changes: Any) -> LlamaModel:
    """Makes a small random model in memory, without a tokenizer.

    Args:
        seed: Of the weights.
        changes: Fields of the config that shall differ from `small_config`.
    """
    config = small_config(**changes)
    return LlamaModel(config, random_weights(config, seed))


def write_small_llama(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Writes the model of `small_llama`, with a tokenizer and a chat template.

    Args:
        folder: Where to; it is made.
        seed: Of the weights.
        changes: Fields of the config that shall differ from `small_config`.

    Returns:
        The folder, for `load_model`.
    """
    config = small_config(**changes)
    write_folder(folder, config, random_weights(config, seed))
    small_tokenizer().save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": SMALL_SPECIAL[1],
            "eos_token": SMALL_SPECIAL[2],
            "chat_template": CHAT_TEMPLATE,
        },
    )
    return folder


def small_tokenizer() -> Any:
    """Builds a byte-level tokenizer of 273 tokens that reads any text."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
    )

    pairs = [pair.split() for pair in SMALL_MERGES.split("|")]
    words = [
        *SMALL_SPECIAL,
        *byte_level_alphabet(),
        *("".join(pair) for pair in pairs),
    ]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[(a, b) for a, b in pairs])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(word, normalized=False) for word in SMALL_SPECIAL]
    )
    return tokenizer


def write_folder(folder: Path, config: LlamaConfig, weights: Arrays) -> None:
    """Writes `config.json` and `model.safetensors`."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config_json(config))
    save_file(weights, folder / "model.safetensors")


def config_json(config: LlamaConfig) -> dict[str, Any]:
    """Returns what `config.json` says of a model without rope scaling."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_q_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_seq_len,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON file."""
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_stories260k(source: Path, folder: Path) -> Path:
    """Turns stories260K of llama2.c into a Hugging Face folder.

    Args:
        source: Holds `stories260K.bin` and `tok512.bin`.
        folder: Where to; it is made.

    Returns:
        The folder, for `load_model`.
    """
    raw = (source / "stories260K.bin").read_bytes()
    config, weights = read_checkpoint(raw)
    write_folder(folder, config, weights)
    raw = (source / "tok512.bin").read_bytes()
    tokenizer = read_tokenizer(raw, config.vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"bos_token": "<s>", "eos_token": "</s>"},
    )
    return folder


def smollm2_file() -> Path:
    """Returns SmolLM2's GGUF file; skips the test where it cannot be had."""
    import pytest

    from kvcache.model import ModelError, download_smollm2

    try:
        return download_smollm2()
    except ModelError as error:
        pytest.skip(f"needs a network once: {error}")
