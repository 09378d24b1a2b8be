"""A config that says too little, or two things, is refused by field."""

from pathlib import Path
from typing import Any

import pytest

from kvcache.model import ModelError
from kvcache.planning import read_shape, shape_from_config

PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
}
HYBRID: dict[str, Any] = PLAIN | {
    "model_type": "mine",
    "full_attention_interval": 2,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 8,
}
MAMBA: dict[str, Any] = PLAIN | {
    "model_type": "mine",
    "layer_types": ["mamba", "attention"] * 2,
    "mamba_d_conv": 4,
    "mamba_d_state": 8,
    "mamba_expand": 2,
}


def refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        shape_from_config(config, source="here")
    assert str(caught.value).startswith("here")
    assert "\n" not in str(caught.value)


def test_what_the_changes_start_from_is_fine() -> None:
    for config in (PLAIN, HYBRID, MAMBA):
        assert shape_from_config(config).num_kv_heads == 2


@pytest.mark.parametrize(
    ("missing", "config"),
    [
        ("num_hidden_layers", PLAIN),
        ("num_attention_heads", PLAIN),
        ("hidden_size", PLAIN),
        ("linear_conv_kernel_dim", HYBRID),
        ("linear_key_head_dim", HYBRID),
        ("linear_num_key_heads", HYBRID),
        ("linear_value_head_dim", HYBRID),
        ("mamba_d_conv", MAMBA),
        ("mamba_expand", MAMBA),
    ],
)
def test_missing_field_is_named(missing: str, config: dict[str, Any]) -> None:
    less = {key: value for key, value in config.items() if key != missing}
    refused(less, f"whole number for {missing}, got nothing")


@pytest.mark.parametrize("value", [0, -1, "4", 2.0, True, [1]])
@pytest.mark.parametrize(
    "field", ["num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
)
def test_number_of_another_kind_is_named(field: str, value: object) -> None:
    refused({**PLAIN, field: value}, f"wanted .*{field}.*, got ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 3}, "num_attention_heads to be a multiple of"),
        (
            {"hidden_size": 66},
            "head_dim, or hidden_size as a multiple of the 4",
        ),
        ({"head_dim": 0}, "positive head_dim, got 0"),
        ({"v_head_dim": 32}, "v_head_dim to be the head_dim 16, got 32"),
        ({"num_kv_heads": 4}, "num_key_value_heads 2 and num_kv_heads 4"),
        ({"n_layer": 5}, "num_hidden_layers 4 and n_layer 5"),
        ({"kv_lora_rank": 8}, "qk_rope_head_dim, got nothing"),
        (
            {"kv_lora_rank": 0, "qk_rope_head_dim": 8},
            "positive kv_lora_rank, got 0",
        ),
        ({"model_type": "bert"}, "a model_type that generates text, got bert"),
        ({"model_type": 7}, "a string for model_type, got 7"),
        ({"is_encoder_decoder": True}, "no is_encoder_decoder .*got 'True'"),
        ({"cross_attention_layers": [1]}, "no cross_attention_layers"),
        ({"index_topk": 2048}, "no index_topk .*got '2048'"),
        ({"use_cla": True}, "no use_cla"),
        ({"block_types": ["recurrent", "attention"]}, "no block_types"),
        (
            {"attn_config": {"kv_n_heads": 0}},
            "attn_config: .*kv_n_heads, got 0",
        ),
        ({"num_kv_shared_layers": 2}, "no num_kv_shared_layers"),
        ({"linear_attn_config": {"kda_layers": []}}, "no linear_attn_config"),
    ],
)
def test_contradictions_name_the_fields(
    changes: dict[str, Any], message: str
) -> None:
    refused({**PLAIN, **changes}, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer_types": ["full_attention"] * 3},
            "4 layers in layer_types, as num_hidden_layers says, got 3",
        ),
        ({"layer_types": ["retention"] * 4}, "in layer_types, got retention"),
        (
            {"layer_types": "full_attention"},
            "a list of strings for layer_types",
        ),
        ({"layer_types": ["mlp"] * 4}, "a layer with attention, got none"),
        (
            {"layer_types": ["sliding_attention"] * 4},
            "whole number for sliding_window, got nothing",
        ),
        (
            {"layer_types": ["sliding_attention"] * 4, "sliding_window": 0},
            "sliding_window from 1 on, got 0",
        ),
        (
            {
                "layer_types": ["sliding_attention"] * 4,
                "sliding_window": 8,
                "use_sliding_window": False,
            },
            "under use_sliding_window False, got some",
        ),
        (
            {
                "layer_types": ["sliding_attention", "chunked_attention"] * 2,
                "sliding_window": 8,
            },
            "sliding_attention or chunked_attention in layer_types, got both",
        ),
        (
            {"sliding_window": 8},
            "sliding_window_pattern or max_window_layers beside sliding_window",
        ),
        (
            {"sliding_window": 8, "sliding_window_pattern": 0},
            "sliding_window_pattern from 1 on, got 0",
        ),
        (
            {"sliding_window": 8, "sliding_window_pattern": "LX"},
            "L, G in sliding_window_pattern, got X",
        ),
        (
            {
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "sliding_window": 8,
                "sliding_window_pattern": 4,
            },
            "layer_types and sliding_window_pattern to agree, got .* 4",
        ),
        (
            {"sliding_window": 8, "max_window_layers": -1},
            "max_window_layers from 0 on, got -1",
        ),
        (
            {"attention_chunk_size": 8, "no_rope_layers": [1, 0]},
            "no_rope_layers for 4 layers, beside attention_chunk_size, got 2",
        ),
        (
            {"layer_types": ["full_attention", "linear_attention"] * 2},
            "linear_num_value_heads, .* for 2 recurrent layers, got none",
        ),
        ({"hybrid_override_pattern": "M*?-"}, "hybrid_override_pattern, got ?"),
        (
            {"attn_layer_indices": [4]},
            "attn_layer_indices below num_hidden_layers 4, got 4",
        ),
        (
            {"attn_layer_period": 2, "attn_layer_offset": 2},
            "attn_layer_offset below attn_layer_period 2, got 2",
        ),
        (
            {"mamba_d_state": 8},
            "layer_types with recurrent layers beside mamba_d_state, got none",
        ),
    ],
)
def test_layers_that_are_not_said_are_named(
    changes: dict[str, Any], message: str
) -> None:
    refused({**PLAIN, "model_type": "mine", **changes}, message)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (HYBRID, {"full_attention_interval": 0}, "interval from 1 on, got 0"),
        (
            HYBRID,
            {"layer_types": ["full_attention", "linear_attention"] * 2},
            "layer_types and full_attention_interval to agree, got .* 2",
        ),
        (HYBRID, {"linear_num_key_heads": 0}, "linear_num_key_heads, got 0"),
        (HYBRID, {"torch_dtype": "float12"}, "torch_dtype: dtype must be one"),
        (
            MAMBA,
            {"mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_head": 31},
            r"mamba_expand \* hidden_size 128, got 124",
        ),
        (MAMBA, {"mamba_n_heads": 4}, "mamba_n_groups, got nothing"),
    ],
)
def test_states_that_are_not_said_are_named(
    config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    refused({**config, **changes}, message)


def test_part_about_text_disagrees_with_the_rest() -> None:
    refused(
        {"num_hidden_layers": 5, "text_config": PLAIN},
        "one num_hidden_layers, got 5 and in text_config 4",
    )
    refused(
        {"text_config": PLAIN, "llm_config": PLAIN},
        "got text_config and llm_config",
    )
    refused({"text_config": "plain"}, "an object for text_config")
    refused(
        {"text_config": {"model_type": "mine"}},
        "here: text_config: wanted a whole number for num_hidden_layers",
    )


def test_part_about_text_is_planned_as_well() -> None:
    mllama = {"text_config": {**PLAIN, "cross_attention_layers": [3]}}
    refused(mllama, "here: text_config: wanted no cross_attention_layers")


def test_outer_part_does_not_hide_an_encoder() -> None:
    refused(
        {"is_encoder_decoder": True, "text_config": PLAIN},
        "no is_encoder_decoder",
    )


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such file: .*config\.json"):
        read_shape(tmp_path)
    with pytest.raises(ModelError, match=r"no such file: .*none\.gguf"):
        read_shape(tmp_path / "none.gguf")
    path = tmp_path / "config.json"
    path.write_text("[]")
    with pytest.raises(ModelError, match="wanted a JSON object, got"):
        read_shape(path)
    path.write_text("{")
    with pytest.raises(ModelError, match="wanted JSON"):
        read_shape(path)
    other = tmp_path / "weights.bin"
    other.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="wanted a GGUF file"):
        read_shape(other)
