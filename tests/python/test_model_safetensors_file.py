import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from kvcache.model import ModelError, load_model
from models import Arrays, random_weights, small_config, write_folder

CONFIG = small_config()
WEIGHTS = random_weights(CONFIG)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "model", CONFIG, WEIGHTS)
    return tmp_path / "model"


def save(folder: Path, weights: Arrays, name: str = "model") -> None:
    save_file(weights, folder / f"{name}.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load_model(folder)
    message = str(raised.value)
    assert "\n" not in message
    assert str(folder) in message
    return message.replace(f"{folder}/", "").replace(f"{folder}: ", "")


def test_writing_into_a_weight_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    for array in load_model(folder).weights.values():
        array[:] = 0
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(folder: Path, dtype: Any) -> None:
    halves = {name: array.astype(dtype) for name, array in WEIGHTS.items()}
    save(folder, halves)
    for name, array in load_model(folder).weights.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(
            array, halves[name].astype(np.float32), err_msg=name
        )


def test_a_tensor_of_another_type_is_refused(folder: Path) -> None:
    name = "model.norm.weight"
    save(folder, WEIGHTS | {name: np.ones(32, np.int64)})
    assert f"bfloat16 for tensor {name}, got I64" in refusal(folder)


def header(entry: Any) -> bytes:
    raw = json.dumps(entry).encode()
    return len(raw).to_bytes(8, "little") + raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "got an empty one"),
        (b"\xff" * 8, "it is no safetensors file or cut short"),
        (b"\4\0\0\0\0\0\0\0nope", "it is no safetensors file"),
        (header([]), "wanted a JSON object as header"),
        (header({"x": 1}), "wanted an object for x, got 1"),
        (header({"x": None}), "wanted an object for x"),
        (header({"x": {}}), "a list of whole numbers for shape, got nothing"),
        (
            header({"x": {"dtype": "F32", "shape": [2], "data_offsets": []}}),
            "wanted 8 bytes for tensor x of shape [2], got bytes [0] of 0",
        ),
        (
            header(
                {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
            ),
            "got bytes [0, 8] of 0: the file is cut short or damaged",
        ),
        (
            header(
                {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}
            ),
            "the file is cut short or damaged",
        ),
    ],
)
def test_a_damaged_safetensors_file_is_refused(
    folder: Path, raw: bytes, message: str
) -> None:
    (folder / "model.safetensors").write_bytes(raw)
    assert message in refusal(folder)


@given(cut=st.integers(0, 100_000))
def test_a_file_cut_anywhere_is_refused(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    write_folder(folder, CONFIG, WEIGHTS)
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[: cut % len(raw)])
    assert "model.safetensors" in refusal(folder)


def test_a_misaligned_tensor_is_aligned_by_a_copy(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    longer = (length + 1).to_bytes(8, "little")
    path.write_bytes(longer + raw[8 : 8 + length] + b" " + raw[8 + length :])
    for name, array in load_model(folder).weights.items():
        assert array.flags.aligned
        np.testing.assert_array_equal(array, WEIGHTS[name])
