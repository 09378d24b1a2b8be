import sys
from contextlib import suppress
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_files import write_gguf
from kvcache.model import ModelError, load_model
from kvcache.model.gguf_file import read_gguf
from models import random_weights, small_config

CONFIG = small_config(
    hidden_size=64, head_dim=16, intermediate_size=96, rms_norm_eps=2**-16
)


WEIGHTS = random_weights(CONFIG)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_the_package_and_we_read_the_same_metadata(path: Path) -> None:
    write_gguf(
        path,
        CONFIG,
        WEIGHTS,
        metadata={
            "general.tags": ["a", "", "ü"],
            "x.flags": [True, False],
            "x.numbers": [-1, 2],
            "x.floats": [0.5, -2.0],
        },
    )
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    known = {
        name: field.contents()
        for name, field in theirs.fields.items()
        if not name.startswith("GGUF.")
    }
    assert ours.metadata == known
    assert {
        name: (tensor.shape, tensor.type_id, tensor.offset)
        for name, tensor in ours.tensors.items()
    } == {
        tensor.name: (
            tuple(tensor.shape.tolist()[::-1]),
            tensor.tensor_type,
            tensor.data_offset,
        )
        for tensor in theirs.tensors
    }


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load_model(path)
    message = str(raised.value)
    assert "\n" not in message
    assert str(path) in message
    return message.replace(f"{path}: ", "")


def test_no_such_file_is_refused(path: Path) -> None:
    assert "no such file" in refusal(path)


def test_another_kind_of_file_is_refused(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 and so on")
    assert refusal(path) == "wanted a GGUF file, got another"


def test_an_empty_file_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    assert refusal(path) == "wanted a GGUF file, got another"


def test_a_lone_safetensors_file_points_to_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    assert "the folder around model.safetensors" in refusal(path)


@pytest.mark.parametrize(
    ("version", "got"),
    [(b"\1\0\0\0", "version 1"), (b"\0\0\0\3", "big-endian")],
)
def test_another_version_is_refused(
    path: Path, version: bytes, got: str
) -> None:
    raw = bytearray(write_gguf(path, CONFIG, WEIGHTS).read_bytes())
    raw[4:8] = version
    path.write_bytes(raw)
    assert refusal(path).endswith(f"got {got}")


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    raw = write_gguf(path, CONFIG, WEIGHTS).read_bytes()
    for length in [*range(4, 9000, 97), len(raw) // 2, len(raw) - 1000]:
        path.write_bytes(raw[:length])
        assert "cut short" in refusal(path), length


@given(data=st.data())
def test_a_damaged_header_never_ends_in_another_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    raw = bytearray(write_gguf(path, CONFIG, WEIGHTS).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 9000))
        raw[at] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with suppress(ModelError):
        load_model(path)


def test_a_missing_package_names_the_extra(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(path, CONFIG, WEIGHTS)
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    with pytest.raises(ModelError, match=r"`gguf`.*`kvcache\[demo\]`"):
        load_model(path)
