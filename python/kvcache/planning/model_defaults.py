"""What an absent key of a `config.json` means, by the model's type.

The values are those of the classes of the transformers library; a test
compares them where it is installed.
"""

from collections.abc import Mapping
from typing import Final

_DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    "cohere2": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "falcon": {"multi_query": True},
    "gemma": {"num_key_value_heads": 16, "head_dim": 256},
    "gemma2": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 2,
    },
    "gemma3_text": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
    "gpt_bigcode": {"multi_query": True},
    "gpt_oss": {
        "num_key_value_heads": 8,
        "head_dim": 64,
        "sliding_window": 128,
        "sliding_window_pattern": 2,
    },
    "jamba": {
        "num_key_value_heads": 8,
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
    },
    "llama4_text": {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attention_chunk_size": 8192,
        "no_rope_layer_interval": 4,
    },
    "mistral": {
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "max_window_layers": 0,
    },
    "mixtral": {"num_key_value_heads": 8, "max_window_layers": 0},
    "phi3": {"max_window_layers": 0},
    "phimoe": {"num_key_value_heads": 8, "max_window_layers": 0},
    "qwen2": {
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "max_window_layers": 28,
    },
    "qwen3": {
        "num_key_value_heads": 32,
        "head_dim": 128,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "max_window_layers": 28,
    },
    "qwen3_next": {
        "num_key_value_heads": 2,
        "head_dim": 256,
        "full_attention_interval": 4,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    },
    "starcoder2": {"num_key_value_heads": 2, "max_window_layers": 0},
}

NESTED_DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    "gemma2": {"num_hidden_layers": 26, "num_attention_heads": 8},
    "gemma3_text": {
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "max_position_embeddings": 131_072,
    },
    "llama": {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_size": 4096,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_size": 4096,
        "max_position_embeddings": 131_072,
    },
    "qwen2": {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_size": 4096,
        "max_position_embeddings": 32_768,
    },
}
"""What the part about text of a multimodal model may leave out as well."""

_PATTERNS = (
    "no_rope_layer_interval",
    "sliding_window_pattern",
    "full_attention_interval",
    "attn_layer_period",
    "attn_layer_offset",
    "max_window_layers",
)
"""Keys that say the same as a list of layers."""


def defaults_of(
    model_type: str, given: Mapping[str, object]
) -> dict[str, object]:
    """Returns the values of absent keys.

    Args:
        model_type: The kind of model.
        given: What the file says; with a list of its layers no other key has
            a default that says which they are.
    """
    defaults = dict(_DEFAULTS.get(model_type, {}))
    if given.get("layer_types") is not None:
        for key in _PATTERNS:
            defaults.pop(key, None)
    return defaults
