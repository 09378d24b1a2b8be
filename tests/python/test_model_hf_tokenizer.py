from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, processors

from gguf_files import byte_level
from kvcache.model import ModelError, Tokenizer, load_model
from kvcache.model.fields import Fields
from kvcache.model.hf_tokenizer import tokenizer_from_folder
from models import small_tokenizer, write_json, write_small_llama

BYTE_LEVEL = byte_level()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_llama(tmp_path / "small")


def loaded(folder: Path) -> Tokenizer:
    tokenizer = load_model(folder).tokenizer
    assert tokenizer is not None
    return tokenizer


def test_a_folder_and_a_gguf_file_agree(folder: Path) -> None:
    tokenizer = loaded(folder)
    text = "<|im_start|>in the end — 12 é<|im_end|>"
    assert tokenizer.encode(text) == BYTE_LEVEL.encode(text)
    assert tokenizer.decode(BYTE_LEVEL.encode(text)) == text
    assert tokenizer.bos_id == BYTE_LEVEL.bos_id
    assert tokenizer.eos_ids == BYTE_LEVEL.eos_ids
    assert tokenizer.special_ids == BYTE_LEVEL.special_ids


def test_a_folder_without_settings_takes_ids_from_its_config(
    folder: Path,
) -> None:
    (folder / "tokenizer_config.json").unlink()
    tokenizer = loaded(folder)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, {2})
    assert not tokenizer.has_chat_template


def test_generation_settings_add_ends(folder: Path) -> None:
    write_json(folder / "generation_config.json", {"eos_token_id": [0]})
    assert loaded(folder).eos_ids == {0, 2}


def test_a_token_may_be_an_object(folder: Path) -> None:
    token = {"__type": "AddedToken", "content": "<|endoftext|>"}
    write_json(folder / "tokenizer_config.json", {"bos_token": token})
    assert loaded(folder).bos_id == 0


def test_a_post_processor_s_start_token_is_kept(folder: Path) -> None:
    backend = small_tokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(folder / "tokenizer.json"))
    assert loaded(folder).encode("xyz") == [1, *BYTE_LEVEL.encode("xyz")]


def save_backend(folder: Path, decoder: Any) -> None:
    backend = Backend(models.BPE(vocab={"▁": 0, "a": 1, "▁a": 2}, merges=[]))
    if decoder is not None:
        backend.decoder = decoder
    backend.save(str(folder / "tokenizer.json"))


def test_sentencepiece_decoders_are_known(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    replace = decoders.Replace("▁", " ")
    steps = [replace, decoders.ByteFallback(), decoders.Fuse()]
    save_backend(folder, decoders.Sequence(steps))
    assert loaded(folder).decode([2, 2]) == " a a"
    save_backend(folder, decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)]))
    assert loaded(folder).decode([2, 2]) == "a a"
    save_backend(folder, decoders.Metaspace())
    assert loaded(folder).decode([2, 2]) == "a a"


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (None, "wanted a decoder, got none"),
        (decoders.WordPiece(), "SentencePiece decoder, got WordPiece"),
        (
            decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]),
            "got ByteLevel, Fuse",
        ),
    ],
)
def test_other_decoders_are_refused(
    folder: Path, decoder: Any, message: str
) -> None:
    save_backend(folder, decoder)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_a_damaged_tokenizer_file_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="a file of the tokenizers library"):
        load_model(folder)


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert tokenizer_from_folder(tmp_path, Fields({}, "x"), 10) is None
