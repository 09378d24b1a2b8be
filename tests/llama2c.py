"""Reads checkpoints and vocabularies of llama2.c.

References:
    https://github.com/karpathy/llama2.c, `run.c`.
"""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcache.model import LlamaConfig, weight_shapes
from kvcache.model.sentencepiece_bpe import (
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    sentencepiece_bpe,
)

Array = npt.NDArray[np.float32]

HEADER = struct.Struct("<7i")
"""Width, SwiGLU width, layers, heads, KV heads, tokens, context."""

BYTE = 6
"""The kind of a token that stands for one byte."""

LAYER_PARTS = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.down_proj",
    "mlp.up_proj",
)
"""Each for all layers, in the order of the file."""


def read_checkpoint(raw: bytes) -> tuple[LlamaConfig, dict[str, Array]]:
    """Reads a version 0 checkpoint.

    Returns:
        The model's shape, and its weights under their Hugging Face names.
    """
    config = read_header(raw)
    shapes = weight_shapes(config)
    floats = np.frombuffer(raw, "<f4", offset=HEADER.size)
    # The cosines and sines of every position stand before the output.
    tables = {"": (config.max_seq_len, config.head_dim)}
    output = {name: shapes[name] for name in shapes if "lm_head" in name}
    stored = {"model.embed_tokens.weight": shapes["model.embed_tokens.weight"]}
    for part in LAYER_PARTS:
        for layer in range(config.num_layers):
            name = f"model.layers.{layer}.{part}.weight"
            stored[name] = shapes[name]
    stored["model.norm.weight"] = shapes["model.norm.weight"]

    weights = {}
    for name, shape in (stored | tables | output).items():
        size = int(np.prod(shape))
        weights[name] = floats[:size].reshape(shape).copy()
        floats = floats[size:]
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights[name] = half_split(weights[name], config.head_dim)
    assert not floats.size
    del weights[""]
    return config, weights


def read_header(raw: bytes) -> LlamaConfig:
    """Reads the model's shape; a negative vocabulary means untied weights."""
    hidden, inner, layers, heads, kv_heads, vocab, seq_len = HEADER.unpack(
        raw[: HEADER.size]
    )
    return LlamaConfig(
        num_layers=layers,
        hidden_size=hidden,
        num_q_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate_size=inner,
        vocab_size=abs(vocab),
        max_seq_len=seq_len,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        tie_embeddings=vocab > 0,
    )


def half_split(rows: Array, head_dim: int) -> Array:
    """Moves each head's even rows before its odd ones.

    A pair that rotates together is neighbours in llama2.c and in GGUF, and half
    a head apart in Hugging Face models.
    """
    heads = [
        np.concatenate([head[0::2], head[1::2]])
        for head in np.split(rows, len(rows) // head_dim)
    ]
    return np.concatenate(heads)


def read_tokenizer(raw: bytes, vocab_size: int) -> Any:
    """Reads a vocabulary as a tokenizer of the `tokenizers` library."""
    from tokenizers import processors

    offset, tokens, scores = 4, [], []
    for _ in range(vocab_size):
        score, length = struct.unpack_from("<fi", raw, offset)
        offset += 8 + length
        token = raw[offset - length : offset].decode("utf-8")
        tokens.append(token.replace(" ", SPACE))
        scores.append(score)
    assert offset == len(raw)
    tokens[:3] = ["<unk>", "<s>", "</s>"]
    kinds = [UNKNOWN, CONTROL, CONTROL]
    kinds += [BYTE] * 256 + [NORMAL] * (vocab_size - 259)
    tokenizer = sentencepiece_bpe(tokens, scores, kinds)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer
