"""What public models keep of a token and of a request, worked by hand."""

import json
from pathlib import Path

import pytest

from gguf_files import write_gguf
from kvcache.planning import (
    KVFormat,
    MemoryBudget,
    ModelShape,
    WindowLayers,
    plan_cache,
    read_shape,
    shape_from_config,
)
from models import random_weights, small_config
from public_configs import (
    CHATGLM3_6B,
    DBRX,
    DEEPSEEK_V2_LITE,
    DEEPSEEK_V3,
    FALCON_7B,
    FALCON_40B,
    GEMMA2_9B,
    GEMMA3_1B,
    GEMMA3_4B,
    GPT2,
    GPT_OSS_20B,
    GRANITE4_TINY,
    JAMBA_MINI,
    LLAMA4_SCOUT,
    LLAMA_2_7B,
    LLAMA_8B,
    LLAMA_70B,
    LLAVA_15_7B,
    MISTRAL_7B,
    NEMOTRON_H_8B,
    PHI3_MINI_4K,
    QWEN3_30B_A3B,
    QWEN3_NEXT_80B,
    QWEN25_7B,
    STARCODER,
    Config,
)


@pytest.mark.parametrize(
    ("config", "layers", "per_layer"),
    [
        # Keys and values, heads, elements, two bytes each.
        (LLAMA_8B, 32, 2 * 8 * 128 * 2),
        (LLAMA_70B, 80, 2 * 8 * 128 * 2),
        (LLAMA_2_7B, 32, 2 * 32 * 128 * 2),
        (QWEN25_7B, 28, 2 * 4 * 128 * 2),
        (QWEN3_30B_A3B, 48, 2 * 4 * 128 * 2),
        (QWEN3_NEXT_80B, 12, 2 * 2 * 256 * 2),
        (MISTRAL_7B, 32, 2 * 8 * 128 * 2),
        (GEMMA2_9B, 42, 2 * 8 * 256 * 2),
        (GEMMA3_1B, 26, 2 * 1 * 256 * 2),
        (GEMMA3_4B, 34, 2 * 4 * 256 * 2),
        (DEEPSEEK_V3, 61, (512 + 64) * 2),
        (DEEPSEEK_V2_LITE, 27, (512 + 64) * 2),
        (PHI3_MINI_4K, 32, 2 * 32 * 96 * 2),
        (GPT_OSS_20B, 24, 2 * 8 * 64 * 2),
        (LLAVA_15_7B, 32, 2 * 32 * 128 * 2),
        (LLAMA4_SCOUT, 48, 2 * 8 * 128 * 2),
        (FALCON_7B, 32, 2 * 1 * 64 * 2),
        (FALCON_40B, 60, 2 * 8 * 64 * 2),
        (DBRX, 40, 2 * 8 * 128 * 2),
        (STARCODER, 40, 2 * 1 * 128 * 2),
        (CHATGLM3_6B, 28, 2 * 2 * 128 * 2),
        (GPT2, 12, 2 * 12 * 64 * 2),
        (JAMBA_MINI, 4, 2 * 8 * 128 * 2),
        (GRANITE4_TINY, 4, 2 * 4 * 128 * 2),
        (NEMOTRON_H_8B, 4, 2 * 8 * 128 * 2),
    ],
)
def test_bytes_of_a_token_are_right(
    config: Config, layers: int, per_layer: int
) -> None:
    shape = shape_from_config(config)
    plan = plan_cache(
        shape,
        KVFormat("bfloat16"),
        MemoryBudget(memory=80 * 2**30),
        page_size=16,
        max_len=1024,
    )
    assert shape.num_layers == layers
    assert plan.bytes_per_token_per_layer == per_layer
    assert plan.bytes_per_token == layers * per_layer


def test_totals_that_are_often_quoted() -> None:
    def total(config: Config) -> int:
        params = shape_from_config(config).params(
            KVFormat("bfloat16"), page_size=16
        )
        return params.bytes_per_token(shape_from_config(config).num_layers)

    assert total(LLAMA_8B) == 128 * 2**10
    assert total(LLAMA_70B) == 320 * 2**10
    assert total(DEEPSEEK_V3) == 70_272
    assert total(QWEN3_NEXT_80B) == 24 * 2**10


@pytest.mark.parametrize(
    ("config", "layers", "tokens"),
    [
        (MISTRAL_7B, 32, 4096),
        (GEMMA2_9B, 21, 4096),
        (GEMMA3_1B, 22, 512),
        (GEMMA3_4B, 29, 1024),
        (PHI3_MINI_4K, 32, 2047),
        (GPT_OSS_20B, 12, 128),
        (LLAMA4_SCOUT, 36, 8192),
        ({**QWEN25_7B, "use_sliding_window": True}, 0, 0),
        (
            {
                **QWEN25_7B,
                "use_sliding_window": True,
                "max_window_layers": 20,
                "sliding_window": 4096,
            },
            8,
            4096,
        ),
    ],
)
def test_windows_are_right(config: Config, layers: int, tokens: int) -> None:
    wanted = WindowLayers(num_layers=layers, tokens=tokens) if layers else None
    assert shape_from_config(config).window == wanted


@pytest.mark.parametrize(
    "config",
    [LLAMA_8B, QWEN25_7B, QWEN3_30B_A3B, DEEPSEEK_V3, QWEN3_NEXT_80B],
)
def test_models_without_windows_have_none(config: Config) -> None:
    assert shape_from_config(config).window is None


def test_gemma3_s_bound_is_worked_by_hand() -> None:
    plan = plan_cache(
        shape_from_config(GEMMA3_1B),
        KVFormat("bfloat16"),
        MemoryBudget(memory=2**30, utilization=1),
        page_size=16,
        max_len=32_768,
    )
    # Layers 5, 11, 17 and 23 read all tokens, the other 22 the last 512.
    tokens = 4 * 32_768 + 22 * 512
    bound = plan.window_bound
    assert bound is not None
    assert bound.bytes_per_request == tokens * 1024 == 145_752_064
    assert bound.pages == 33
    assert bound.max_requests == 2**30 // 145_752_064 == 7
    # This library keeps 26 * 32,768 tokens in layers: 832 MiB.
    assert plan.max_requests == 1


@pytest.mark.parametrize(
    ("config", "layers", "state", "conv"),
    [
        # Heads, elements of a key, elements of a value; float32. Then queries,
        # keys and values of 3 tokens in bfloat16.
        (
            QWEN3_NEXT_80B,
            36,
            32 * 128 * 128 * 4,
            (2 * 16 * 128 + 32 * 128) * 3 * 2,
        ),
        # Width 2 * 4096, 16 elements each.
        (JAMBA_MINI, 28, 8192 * 16 * 4, 8192 * 3 * 2),
        # 48 heads of 64, 128 elements each; one group of B and C.
        (GRANITE4_TINY, 36, 48 * 64 * 128 * 4, (3072 + 2 * 128) * 3 * 2),
        (
            NEMOTRON_H_8B,
            24,
            128 * 64 * 128 * 4,
            (8192 + 2 * 8 * 128) * 3 * 2,
        ),
    ],
)
def test_states_are_right(
    config: Config, layers: int, state: int, conv: int
) -> None:
    found = shape_from_config(config).state
    assert found is not None
    assert found.num_layers == layers
    assert (found.recurrent_bytes, found.conv_bytes) == (state, conv)
    assert found.bytes_per_request == layers * (state + conv)


def test_qwen3_next_s_state_in_round_numbers() -> None:
    state = shape_from_config(QWEN3_NEXT_80B).state
    assert state is not None
    # 36 layers of 2 MiB and 48 KiB.
    assert state.bytes_per_request == 36 * (2 * 2**20 + 48 * 2**10)
    assert state.num_shares == 16


def test_conv_state_has_the_model_s_type() -> None:
    wide = shape_from_config({**QWEN3_NEXT_80B, "torch_dtype": "float32"})
    assert wide.state is not None
    assert wide.state.conv_bytes == 8192 * 3 * 4
    outer = {"dtype": "float32", "text_config": dict(QWEN3_NEXT_80B)}
    del outer["text_config"]["torch_dtype"]  # type: ignore[attr-defined]
    assert shape_from_config(outer).state == wide.state


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (
            QWEN3_NEXT_80B,
            (["linear_attention"] * 3 + ["full_attention"]) * 12,
        ),
        (GEMMA3_1B, (["sliding_attention"] * 5 + ["full_attention"]) * 5),
        (GEMMA2_9B, ["sliding_attention", "full_attention"] * 21),
        (MISTRAL_7B, ["sliding_attention"] * 32),
    ],
)
def test_a_list_of_layers_says_the_same_as_a_pattern(
    config: Config, kinds: list[str]
) -> None:
    kinds = kinds[: config["num_hidden_layers"]]
    listed = {**config, "layer_types": kinds}
    assert shape_from_config(listed) == shape_from_config(config)
    for key in ("full_attention_interval", "sliding_window_pattern"):
        listed.pop(key, None)
    assert shape_from_config(listed) == shape_from_config(config)


def test_letters_repeat_over_the_layers() -> None:
    exaone = {
        **LLAMA_8B,
        "model_type": "exaone4",
        "sliding_window": 4096,
        "sliding_window_pattern": "LLLG",
    }
    window = shape_from_config(exaone).window
    assert window == WindowLayers(num_layers=24, tokens=4096)


def test_period_that_does_not_divide_the_layers() -> None:
    jamba = JAMBA_MINI | {
        "num_hidden_layers": 7,
        "attn_layer_period": 4,
        "attn_layer_offset": 3,
    }
    assert shape_from_config(jamba).num_layers == 1  # the fourth
    assert shape_from_config({**jamba, "attn_layer_offset": 2}).num_layers == 2


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({}, 6),  # the fourth of 7 reads everything
        ({"no_rope_layer_interval": 3}, 5),
        ({"no_rope_layers": [1, 0, 1, 0, 0, 0, 0]}, 2),
    ],
)
def test_layers_without_rope_read_everything(
    changes: Config, layers: int
) -> None:
    text = LLAMA4_SCOUT["text_config"] | {"num_hidden_layers": 7}
    window = shape_from_config({**text, **changes}).window
    assert window == WindowLayers(num_layers=layers, tokens=8192)


def test_mistral_without_a_word_has_a_window_and_with_null_none() -> None:
    silent = {k: v for k, v in MISTRAL_7B.items() if k != "sliding_window"}
    assert shape_from_config(silent) == shape_from_config(MISTRAL_7B)
    assert shape_from_config({**silent, "sliding_window": None}).window is None


def test_indices_name_the_layers_with_attention() -> None:
    bamba = {
        key: value
        for key, value in GRANITE4_TINY.items()
        if key != "layer_types"
    } | {"model_type": "bamba", "attn_layer_indices": [5, 15, 25, 35]}
    assert shape_from_config(bamba) == shape_from_config(GRANITE4_TINY)


def test_hybrid_without_recurrent_layers_has_no_state() -> None:
    dense = {**GRANITE4_TINY, "layer_types": ["attention"] * 40}
    shape = shape_from_config(dense)
    assert (shape.num_layers, shape.state) == (40, None)


def test_nested_part_counts() -> None:
    nested = {
        "model_type": "some_vl",
        "num_hidden_layers": 32,
        "text_config": LLAMA_8B,
        "vision_config": {"num_hidden_layers": 24},
    }
    assert shape_from_config(nested) == shape_from_config(LLAMA_8B)


def test_context_of_the_model_is_known() -> None:
    assert shape_from_config(LLAMA_8B).max_seq_len == 131_072
    assert shape_from_config(GEMMA3_4B).max_seq_len == 131_072
    assert shape_from_config(GPT2).max_seq_len == 1024
    assert shape_from_config(DBRX).max_seq_len == 32_768
    assert shape_from_config(FALCON_7B).max_seq_len is None


def test_files_and_folders_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(DEEPSEEK_V3))
    shape = shape_from_config(DEEPSEEK_V3)
    assert read_shape(tmp_path) == read_shape(path) == shape


def test_gguf_is_read(tmp_path: Path) -> None:
    config = small_config()
    path = write_gguf(tmp_path / "a.gguf", config, random_weights(config))
    assert read_shape(path) == ModelShape(
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_seq_len=config.max_seq_len,
    )
