import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given
from hypothesis import strategies as st

from gguf_files import interleave, write_gguf
from kvcache.model import DivisorScaling, LinearScaling, ModelError, load_model
from kvcache.model.dequantise import dequantise
from kvcache.model.gguf_llama import (
    gguf_name,
    half_split_rows,
    hugging_face_name,
)
from models import random_weights, small_config

CONFIG = small_config(
    hidden_size=64, head_dim=16, intermediate_size=96, rms_norm_eps=2**-16
)


WEIGHTS = random_weights(CONFIG)
HEAD_DIM_KEYS = (
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.rope.dimension_count",
)


STORED = (Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_a_written_model_is_read_as_it_was(path: Path) -> None:
    model = load_model(write_gguf(path, CONFIG, WEIGHTS))
    assert model.config == CONFIG
    assert set(model.weights) == set(WEIGHTS)
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, WEIGHTS[name], err_msg=name)
        assert array.dtype == np.float32
        assert array.flags.carray  # contiguous, aligned and writeable


def test_writing_into_a_weight_leaves_the_file_alone(path: Path) -> None:
    model = load_model(write_gguf(path, CONFIG, WEIGHTS))
    before = path.read_bytes()
    for array in model.weights.values():
        array[:] = 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", STORED)
def test_every_stored_type_means_what_its_package_says(
    path: Path, kind: Kind
) -> None:
    model = load_model(write_gguf(path, CONFIG, WEIGHTS, kind=kind))
    for name, array in model.weights.items():
        wanted = WEIGHTS[name]
        if wanted.ndim == 2:
            wanted = gguf.dequantize(gguf.quantize(wanted, kind), kind)
        np.testing.assert_array_equal(array, wanted, err_msg=name)


@given(
    rows=st.integers(1, 67),
    blocks=st.integers(1, 40),
    kind=st.sampled_from([Kind.F32, *STORED]),
)
def test_joined_rows_dequantise_as_single_rows_do(
    rows: int, blocks: int, kind: Kind
) -> None:
    rng = np.random.default_rng(rows * 41 + blocks)
    floats = rng.standard_normal((rows, blocks * 32), np.float32)
    packed = gguf.quantize(floats, kind)
    np.testing.assert_array_equal(
        dequantise(packed.view(np.uint8), kind, "w"),
        gguf.dequantize(packed, kind),
    )


def test_half_split_rows_undo_the_converters_order() -> None:
    assert half_split_rows(1, 8).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert half_split_rows(2, 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@given(num_heads=st.integers(1, 5), half=st.integers(1, 8))
def test_reordering_twice_changes_nothing(num_heads: int, half: int) -> None:
    size = num_heads * 2 * half
    rows = np.arange(size, dtype=np.float32).reshape(size, 1)
    stored = interleave(rows, num_heads)
    np.testing.assert_array_equal(
        stored[half_split_rows(num_heads, 2 * half)], rows
    )


def test_names_are_those_of_the_format() -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, CONFIG.num_layers)
    for name in WEIGHTS:
        theirs = names.get_name(name, try_suffixes=[".weight"])
        assert gguf_name(name) == theirs
        assert hugging_face_name(theirs) == name


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_q.bias",
        "blk.0.ffn_gate_exps.weight",
        "rope_freqs.weight",
        "weight",
    ],
)
def test_other_names_have_no_place(name: str) -> None:
    assert hugging_face_name(name) is None


def test_no_output_tensor_means_tied_embeddings(path: Path) -> None:
    config = dataclasses.replace(CONFIG, tie_embeddings=True)
    model = load_model(write_gguf(path, config, random_weights(config)))
    assert model.config.tie_embeddings
    assert "lm_head.weight" not in model.weights


def test_optional_metadata_has_the_formats_defaults(path: Path) -> None:
    config = small_config(rms_norm_eps=2**-16, num_kv_heads=4)
    weights = random_weights(config)
    absent = dict.fromkeys(
        (
            "llama.attention.head_count_kv",
            "llama.rope.freq_base",
            "llama.vocab_size",
            *HEAD_DIM_KEYS,
        )
    )
    model = load_model(write_gguf(path, config, weights, metadata=absent))
    assert model.config == config


def test_linear_rope_scaling_is_read(path: Path) -> None:
    metadata = {
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 4.0,
    }
    write_gguf(path, CONFIG, WEIGHTS, metadata=metadata)
    assert load_model(path).config.rope_scaling == LinearScaling(4.0)


def test_rope_divisors_are_read(path: Path) -> None:
    divisors = np.array([1, 1, 1, 2, 4, 8, 8, 8], np.float32)
    extra = {"rope_freqs.weight": divisors}
    write_gguf(path, CONFIG, WEIGHTS, extra=extra)
    model = load_model(path)
    assert model.config.rope_scaling == DivisorScaling((1, 1, 1, 2, 4, 8, 8, 8))
    assert set(model.weights) == set(WEIGHTS)


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load_model(path)
    message = str(raised.value)
    assert "\n" not in message
    assert str(path) in message
    return message.replace(f"{path}: ", "")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"llama.expert_count": 8},
            "wanted no llama.expert_count (unsupported), got 8",
        ),
        (
            {"llama.attention.sliding_window": 4096},
            "wanted no llama.attention.sliding_window (unsupported), got 4096",
        ),
        (
            {"llama.rope.scale_linear": 2.0},
            "wanted no llama.rope.scale_linear (unsupported), got 2.0",
        ),
        ({"split.count": 2}, "wanted a model in one file, got one of 2"),
        (
            {"llama.rope.dimension_count": 8},
            "wanted llama.rope.dimension_count to be the head_dim 16, got 8",
        ),
        (
            {"llama.attention.value_length": 32},
            "wanted llama.attention.value_length to be the head_dim 16, got 32",
        ),
        (
            {"llama.block_count": None},
            "wanted a whole number for llama.block_count, got nothing",
        ),
        (
            {"llama.attention.head_count": 0},
            "wanted a positive llama.attention.head_count, got 0",
        ),
        (
            {"llama.attention.head_count_kv": [2, 4]},
            (
                "wanted a whole number for llama.attention.head_count_kv, "
                "got [2, 4]"
            ),
        ),
        (
            {"llama.rope.scaling.type": "yarn"},
            "wanted rope scaling none or linear, got yarn",
        ),
        (
            {"llama.block_count": 3},
            "wanted a tensor blk.2.attn_norm.weight of shape [64], got none",
        ),
        (
            {"llama.block_count": 1},
            (
                "wanted only the tensors of a Llama model with 1 layers, "
                "got also blk.1.attn_norm.weight of shape [64]"
            ),
        ),
        (
            {"llama.block_count": 2**32 - 1},
            "wanted a tensor blk.2.attn_norm.weight of shape [64], got none",
        ),
        (
            dict.fromkeys(HEAD_DIM_KEYS, 2**31),
            (
                "wanted shape [8589934592, 64] for tensor blk.0.attn_q.weight, "
                "got [64, 64]"
            ),
        ),
        (
            {"llama.feed_forward_length": 48},
            (
                "wanted shape [48, 64] for tensor blk.0.ffn_gate.weight, "
                "got [96, 64]"
            ),
        ),
        (
            {"llama.vocab_size": 299},
            (
                "wanted shape [299, 64] for tensor token_embd.weight, "
                "got [300, 64]"
            ),
        ),
    ],
)
def test_a_model_that_is_not_ours_is_refused(
    path: Path, metadata: dict, message: str
) -> None:
    write_gguf(path, CONFIG, WEIGHTS, metadata=metadata)
    assert refusal(path) == message


def test_another_architecture_is_refused(path: Path) -> None:
    write_gguf(path, CONFIG, WEIGHTS, arch="qwen2")
    assert refusal(path) == "wanted the architecture llama, got qwen2"


def test_a_bias_is_refused_by_its_name(path: Path) -> None:
    extra = {"blk.1.attn_q.bias": np.zeros(64, np.float32)}
    write_gguf(path, CONFIG, WEIGHTS, extra=extra)
    assert "blk.1.attn_q.bias of shape [64]" in refusal(path)


def test_two_rope_scalings_are_refused(path: Path) -> None:
    write_gguf(
        path,
        CONFIG,
        WEIGHTS,
        metadata={
            "llama.rope.scaling.type": "linear",
            "llama.rope.scaling.factor": 4.0,
        },
        extra={"rope_freqs.weight": np.ones(8, np.float32)},
    )
    assert "got both" in refusal(path)


def test_whole_numbers_are_no_weights(path: Path) -> None:
    extra = {"rope_freqs.weight": np.ones(8, np.int32)}
    write_gguf(path, CONFIG, WEIGHTS, extra=extra)
    with pytest.raises(ModelError, match=r"rope_freqs\.weight, got I32"):
        load_model(path)
