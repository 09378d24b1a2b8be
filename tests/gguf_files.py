"""GGUF files for tests, written by the package that defines the format."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from kvcache.model import LlamaConfig, Tokenizer
from kvcache.model.fields import Fields
from kvcache.model.gguf_llama import gguf_name
from kvcache.model.gguf_tokenizer import tokenizer_from_gguf
from kvcache.model.sentencepiece_bpe import CONTROL, NORMAL, UNKNOWN
from llama2c import BYTE
from models import SMALL_SPECIAL, Arrays, small_config, small_tokenizer


def interleave(
    rows: npt.NDArray[np.float32], num_heads: int
) -> npt.NDArray[np.float32]:
    """Moves rows as llama.cpp's converter does: halves become neighbours."""
    head_dim = len(rows) // num_heads
    out = np.empty_like(rows)
    for head in range(num_heads):
        base = head * head_dim
        for pair in range(head_dim // 2):
            out[base + 2 * pair] = rows[base + pair]
            out[base + 2 * pair + 1] = rows[base + pair + head_dim // 2]
    return out


def gguf_metadata(config: LlamaConfig) -> dict[str, Any]:
    """Returns the metadata of a model and its tokenizer."""
    words = small_tokenizer().get_vocab()
    merges = small_merges()
    return {
        "llama.block_count": config.num_layers,
        "llama.context_length": config.max_seq_len,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_q_heads,
        "llama.attention.head_count_kv": config.num_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope_theta,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.vocab_size": config.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt2",
        "tokenizer.ggml.tokens": sorted(words, key=words.__getitem__),
        "tokenizer.ggml.token_type": [
            3 if word in SMALL_SPECIAL else 1
            for word in sorted(words, key=words.__getitem__)
        ],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def small_merges() -> list[str]:
    """Returns the merges of the small tokenizer."""
    model = json.loads(small_tokenizer().to_str())["model"]
    return [" ".join(pair) for pair in model["merges"]]


def write_gguf(
    path: Path,
    config: LlamaConfig,
    weights: Arrays,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    metadata: dict[str, Any] | None = None,
    arch: str = "llama",
    extra: Arrays | None = None,
) -> Path:
    """Writes a model; matrices are stored as `kind`.

    Args:
        path: Where to.
        config: The model's shape.
        weights: Its tensors, by Hugging Face name.
        kind: How matrices are stored.
        metadata: Replaces keys of `gguf_metadata`; None drops a key.
        arch: The architecture's name.
        extra: Tensors under the names that GGUF shall have.

    Returns:
        The path.
    """
    writer = gguf.GGUFWriter(path, arch)
    for key, value in (gguf_metadata(config) | (metadata or {})).items():
        if value is not None:
            add_value(writer, key, value)
    heads = {"q_proj": config.num_q_heads, "k_proj": config.num_kv_heads}
    for name, array in weights.items():
        num_heads = heads.get(name.split(".")[-2])
        rows = interleave(array, num_heads) if num_heads else array
        stored = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        packed = gguf.quantize(rows, stored)
        writer.add_tensor(gguf_name(name), packed, raw_dtype=stored)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Adds one key under the type that its value suggests."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


PIECES = ("▁", "a", "b", "▁a", "ab", "▁ab", "é")
"""The words of a small SentencePiece vocabulary, best score first."""


def byte_level(**changes: Any) -> Tokenizer:
    """Reads the small byte-level tokenizer from GGUF metadata.

    Args:
        changes: Keys of `tokenizer.ggml` that shall differ.
    """
    keys = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    config = small_config()
    tokenizer = tokenizer_from_gguf(
        Fields(gguf_metadata(config) | keys, "model.gguf"), config.vocab_size
    )
    assert tokenizer is not None
    return tokenizer


def sentencepiece(**changes: Any) -> Tokenizer:
    """Reads a small SentencePiece tokenizer from GGUF metadata.

    Args:
        changes: Keys of `tokenizer.ggml` that shall differ.
    """
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    keys = {
        "model": "llama",
        "tokens": ["<unk>", "<s>", "</s>", *raw, *PIECES],
        "token_type": [
            *(UNKNOWN, CONTROL, CONTROL),
            *[BYTE] * len(raw),
            *[NORMAL] * len(PIECES),
        ],
        "scores": [0.0] * 259 + [-float(rank) for rank in range(len(PIECES))],
    }
    return byte_level(**(keys | changes))
