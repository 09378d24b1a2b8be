import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kvcache.model import LinearScaling, Llama3Scaling, ModelError, load_model
from models import (
    Arrays,
    config_json,
    random_weights,
    small_config,
    small_llama,
    write_folder,
    write_json,
    write_small_llama,
)

CONFIG = small_config()
WEIGHTS = random_weights(CONFIG)


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "model", CONFIG, WEIGHTS)
    return tmp_path / "model"


def change_config(folder: Path, **changes: Any) -> None:
    """Replaces keys of `config.json`; ... drops one."""
    merged = config_json(CONFIG) | changes
    kept = {key: value for key, value in merged.items() if value is not ...}
    write_json(folder / "config.json", kept)


def save(folder: Path, weights: Arrays, name: str = "model") -> None:
    save_file(weights, folder / f"{name}.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load_model(folder)
    message = str(raised.value)
    assert "\n" not in message
    assert str(folder) in message
    return message.replace(f"{folder}/", "").replace(f"{folder}: ", "")


def test_a_written_model_is_read_as_it_was(folder: Path) -> None:
    model = load_model(folder)
    assert model.config == CONFIG
    assert model.tokenizer is None
    assert set(model.weights) == set(WEIGHTS)
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, WEIGHTS[name], err_msg=name)
        assert array.dtype == np.float32
        assert array.flags.carray  # contiguous, aligned and writeable


def test_shards_are_put_together(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    names = sorted(WEIGHTS)
    shards = {"a": names[::2], "b": names[1::2]}
    for shard, held in shards.items():
        save(folder, {name: WEIGHTS[name] for name in held}, shard)
    shard_of = {
        name: f"{shard}.safetensors"
        for shard, held in shards.items()
        for name in held
    }
    write_json(
        folder / "model.safetensors.index.json", {"weight_map": shard_of}
    )
    model = load_model(folder)
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, WEIGHTS[name], err_msg=name)
    assert len(model.weights) == len(WEIGHTS)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "index.json: wanted a weight_map, got nothing"),
        ({"weight_map": {"x": "gone.safetensors"}}, "No such file"),
        ({"weight_map": {"x": "../model.safetensors"}}, "wanted a file name"),
        ({"weight_map": {"x": "model.safetensors"}}, "wanted a tensor x"),
        ({"weight_map": {"x": 3}}, "wanted a string for x, got 3"),
    ],
)
def test_a_wrong_index_is_refused(
    folder: Path, index: Any, message: str
) -> None:
    write_json(folder / "model.safetensors.index.json", index)
    assert message in refusal(folder)


def test_tied_embeddings_ignore_a_stored_output(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=True)
    model = load_model(folder)
    assert model.config.tie_embeddings
    assert "lm_head.weight" not in model.weights


def test_stored_rope_buffers_are_no_weights(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save(folder, WEIGHTS | {name: np.ones(4, np.float32)})
    assert name not in load_model(folder).weights


def test_absent_keys_have_the_library_s_defaults(folder: Path) -> None:
    config = small_config(num_kv_heads=4, max_seq_len=2048, rms_norm_eps=1e-6)
    write_folder(folder, config, random_weights(config))
    change_config(
        folder,
        num_key_value_heads=...,
        head_dim=...,
        max_position_embeddings=...,
        rope_theta=...,
        rms_norm_eps=...,
        tie_word_embeddings=...,
        hidden_act=...,
    )
    assert load_model(folder).config == config


@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_rope_scaling_is_read_under_both_names(folder: Path, key: str) -> None:
    change_config(folder, rope_scaling={key: "linear", "factor": 2.0})
    assert load_model(folder).config.rope_scaling == LinearScaling(2.0)
    change_config(folder, rope_scaling={key: "llama3", **LLAMA3})
    assert load_model(folder).config.rope_scaling == Llama3Scaling(
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_seq_len=8192,
    )
    change_config(folder, rope_scaling={key: "default"})
    assert load_model(folder).config.rope_scaling is None


def test_newer_rope_parameters_are_read(folder: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 5e5}
    change_config(folder, rope_theta=..., rope_parameters=rope)
    config = load_model(folder).config
    assert config == dataclasses.replace(CONFIG, rope_theta=5e5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral"}, "wanted the model_type llama, got mixtral"),
        ({"model_type": ...}, "wanted a string for model_type, got nothing"),
        ({"attention_bias": True}, "wanted attention_bias False"),
        ({"mlp_bias": True}, "wanted mlp_bias False"),
        ({"hidden_act": "gelu"}, "wanted hidden_act 'silu'"),
        ({"num_local_experts": 8}, "wanted num_local_experts None"),
        ({"sliding_window": 4096}, "wanted sliding_window None"),
        ({"partial_rotary_factor": 0.5}, "wanted partial_rotary_factor 1"),
        ({"quantization_config": {}}, "wanted quantization_config None"),
        ({"hidden_size": "64"}, "a whole number for hidden_size, got '64'"),
        ({"hidden_size": True}, "a whole number for hidden_size, got True"),
        ({"rms_norm_eps": "x"}, "wanted a number for rms_norm_eps, got 'x'"),
        ({"rope_theta": 1e999}, "wanted a finite number for rope_theta"),
        ({"tie_word_embeddings": 1}, "wanted true or false for tie_word"),
        ({"num_attention_heads": 0}, "wanted a positive num_attention_heads"),
        ({"rope_scaling": 3}, "wanted an object for rope_scaling, got 3"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            "wanted rope scaling default, linear or llama3, got yarn",
        ),
        (
            {"rope_scaling": {"rope_type": "linear"}},
            "rope_scaling: wanted a number for factor, got nothing",
        ),
        (
            {"num_hidden_layers": 3},
            "wanted a tensor model.layers.2.input_layernorm.weight of shape",
        ),
        (
            {"intermediate_size": 49},
            "wanted shape [49, 32] for tensor model.layers.0.mlp.gate_proj",
        ),
        (
            {"num_hidden_layers": 1},
            "got also model.layers.1.input_layernorm.weight of shape [32]",
        ),
    ],
)
def test_a_model_that_is_not_ours_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(folder, **changes)
    assert message in refusal(folder)


def test_a_bias_tensor_is_refused_by_its_name(folder: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.bias"
    save(folder, WEIGHTS | {name: np.ones(32, np.float32)})
    assert f"got also {name} of shape [32]" in refusal(folder)


def test_missing_files_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "model.safetensors: No such file" in refusal(folder)
    (folder / "config.json").unlink()
    assert "config.json: No such file" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json: wanted JSON"),
        ("[1]", "config.json: wanted a JSON object, got [1]"),
        ("[" * 10**5, "config.json: wanted JSON"),
    ],
)
def test_a_damaged_config_is_refused(
    folder: Path, content: str, message: str
) -> None:
    (folder / "config.json").write_text(content)
    assert message in refusal(folder)


def test_the_small_llama_is_the_same_in_memory_and_in_its_folder(
    tmp_path: Path,
) -> None:
    written = load_model(write_small_llama(tmp_path / "small", seed=3))
    made = small_llama(seed=3)
    assert written.config == made.config
    assert set(written.weights) == set(made.weights)
    for name, array in made.weights.items():
        np.testing.assert_array_equal(written.weights[name], array)
    assert written.tokenizer is not None
