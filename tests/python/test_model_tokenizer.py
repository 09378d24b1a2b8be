from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, processors

from gguf_files import gguf_metadata
from kvcache.model import ModelError, Tokenizer, load_model
from kvcache.model.fields import Fields
from kvcache.model.gguf_tokenizer import tokenizer_from_gguf
from kvcache.model.hf_tokenizer import tokenizer_from_folder
from kvcache.model.sentencepiece_bpe import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    sentencepiece_bpe,
)
from kvcache.model.token_bytes import (
    byte_level_alphabet,
    byte_level_bytes,
    sentencepiece_bytes,
)
from models import (
    BYTE,
    SMALL_SPECIAL,
    small_config,
    small_tokenizer,
    write_json,
    write_small_llama,
)

CONFIG = small_config()
VOCAB = CONFIG.vocab_size
PIECES = ["▁", "a", "b", "▁a", "ab", "▁ab", "é"]
"""A SentencePiece vocabulary; later words score worse."""


def from_gguf(**metadata: Any) -> Tokenizer:
    changed = {
        f"tokenizer.ggml.{key}"
        if key != "chat"
        else "tokenizer.chat_template": value
        for key, value in metadata.items()
    }
    tokenizer = tokenizer_from_gguf(
        Fields(gguf_metadata(CONFIG) | changed, "model.gguf"), VOCAB
    )
    assert tokenizer is not None
    return tokenizer


def sentencepiece_gguf(**metadata: Any) -> Tokenizer:
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *raw, *PIECES]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(PIECES)]
    return from_gguf(
        **{
            "model": "llama",
            "pre": "default",
            "tokens": tokens,
            "token_type": kinds,
            "scores": [*[0.0] * 259, *(-float(i) for i in range(len(PIECES)))],
            "merges": None,
        }
        | metadata
    )


BYTE_LEVEL = from_gguf()
SENTENCEPIECE = sentencepiece_gguf()


def streamed(tokenizer: Tokenizer, ids: list[int], **options: Any) -> list[str]:
    stream = tokenizer.stream(**options)
    pieces = [stream.feed(token) for token in ids]
    return [*pieces, stream.finish()]


def test_a_text_becomes_its_bytes_and_merges() -> None:
    the = BYTE_LEVEL.encode("the")  # "t" + "he"
    assert len(the) == 2
    assert len(BYTE_LEVEL.encode(" the")) == 1
    assert BYTE_LEVEL.decode(the) == "the"


def test_special_tokens_in_a_text_are_recognised() -> None:
    ids = BYTE_LEVEL.encode("<|im_start|>a<|im_end|>")
    assert (ids[0], ids[-1], len(ids)) == (1, 2, 3)
    assert BYTE_LEVEL.special_ids == {0, 1, 2}
    assert BYTE_LEVEL.decode(ids) == "<|im_start|>a<|im_end|>"
    assert BYTE_LEVEL.decode(ids, skip_special=True) == "a"


@given(text=st.text())
def test_byte_level_reads_back_any_text(text: str) -> None:
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode(text)) == text


@given(text=st.text())
def test_sentencepiece_reads_back_any_text(text: str) -> None:
    # Nothing tells a written "▁" from a space: SentencePiece's own limit.
    text = text.replace("▁", "_")
    ids = SENTENCEPIECE.encode(text)
    assert ids[0] == 1
    assert SENTENCEPIECE.decode(ids[1:]) == text


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE])
@pytest.mark.parametrize("skip_special", [False, True])
@given(data=st.data())
def test_a_stream_joined_is_the_decoded_text(
    tokenizer: Tokenizer, skip_special: bool, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, VOCAB - 1), max_size=12))
    pieces = streamed(tokenizer, ids, skip_special=skip_special)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special=skip_special)


@given(text=st.text(min_size=1))
def test_a_stream_emits_whole_characters_only(text: str) -> None:
    text = text.replace("\ufffd", "?")
    ids = BYTE_LEVEL.encode(text)
    so_far = ""
    for piece in streamed(BYTE_LEVEL, ids):
        so_far += piece
        assert text.startswith(so_far)
        assert "\ufffd" not in piece
    assert so_far == text


def test_a_character_waits_for_its_last_byte() -> None:
    ids = BYTE_LEVEL.encode("é€")
    assert len(ids) == 5
    assert streamed(BYTE_LEVEL, ids) == ["", "é", "", "", "€", ""]


def test_a_character_cut_off_ends_in_one_replacement() -> None:
    euro = BYTE_LEVEL.encode("€")
    assert streamed(BYTE_LEVEL, euro[:2]) == ["", "", "\ufffd"]
    letter = BYTE_LEVEL.encode("x")
    assert streamed(BYTE_LEVEL, euro[:2] + letter) == ["", "", "\ufffdx", ""]


@given(ids=st.lists(st.integers(0, 272), max_size=12))
def test_byte_level_decodes_as_the_library_does(ids: list[int]) -> None:
    library = small_tokenizer()
    assert BYTE_LEVEL.decode(ids) == library.decode(
        ids, skip_special_tokens=False
    )


def test_padding_rows_decode_to_nothing() -> None:
    assert BYTE_LEVEL.decode([VOCAB - 1]) == ""


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_an_id_out_of_range_is_refused(token: int) -> None:
    message = rf"wanted a token id in \[0, {VOCAB}\), got {token}"
    with pytest.raises(ModelError, match=message):
        BYTE_LEVEL.decode([token])
    with pytest.raises(ModelError, match=message):
        BYTE_LEVEL.stream().feed(token)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(ModelError, match=r"code point 0xd800 at 1"):
        BYTE_LEVEL.encode("a\ud800")


def test_every_byte_has_one_character() -> None:
    alphabet = byte_level_alphabet()
    assert len(set(alphabet)) == 256
    raw = b"".join(byte_level_bytes(character) for character in alphabet)
    assert raw == bytes(range(256))
    assert (alphabet[0x20], alphabet[0x0A], alphabet[0x41]) == ("Ġ", "Ċ", "A")


def test_an_added_token_is_its_own_text() -> None:
    assert byte_level_bytes("<a b>") == b"<a b>"
    assert byte_level_bytes("日本") == "日本".encode()


def test_sentencepiece_spells_spaces_and_bytes() -> None:
    assert sentencepiece_bytes("▁ab") == b" ab"
    assert sentencepiece_bytes("<0x0A>") == b"\n"
    assert sentencepiece_bytes("<0x0A> ") == b"<0x0A> "


def test_sentencepiece_merges_the_best_score_first() -> None:
    spelling = dict(enumerate(PIECES, 259))
    ids = SENTENCEPIECE.encode("ab")[1:]
    # "▁" + "a" (score -3) is joined before "a" + "b" (score -4).
    assert [spelling[token] for token in ids] == ["▁ab"]
    worse = ["▁", "a", "b", "ab", "▁a"]
    backend = sentencepiece_bpe(
        ["<unk>", *worse], [0, 0, 0, 0, -1, -2], [UNKNOWN] + [NORMAL] * 5
    )
    assert backend.encode("ab").tokens == ["▁", "ab"]


def test_sentencepiece_without_a_prefix_keeps_the_first_space() -> None:
    tokenizer = sentencepiece_gguf(add_space_prefix=False)
    assert tokenizer.decode(tokenizer.encode(" a")[1:]) == " a"
    assert len(tokenizer.encode("a")) == 2


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt2", ["ab", " 1998", "!"]),
        ("smollm", ["ab", " ", "1", "9", "9", "8", "!"]),
        ("llama-bpe", ["ab", " ", "199", "8", "!"]),
    ],
)
def test_each_kind_splits_digits_its_own_way(
    pre: str, words: list[str]
) -> None:
    backend = from_gguf(pre=pre)._backend
    split = backend.pre_tokenizer.pre_tokenize_str("ab 1998!")
    assert [word.replace("Ġ", " ") for word, _ in split] == words


def test_the_start_token_comes_once() -> None:
    tokenizer = from_gguf(add_bos_token=True)
    assert tokenizer.encode("a") == [1, *BYTE_LEVEL.encode("a")]
    assert tokenizer.encode("<|im_start|>a") == tokenizer.encode("a")
    assert tokenizer.encode("") == [1]
    assert BYTE_LEVEL.encode("") == []


def test_every_kind_of_end_ends_an_answer() -> None:
    assert BYTE_LEVEL.eos_ids == {2}
    assert BYTE_LEVEL.bos_id == 1
    assert from_gguf(eot_token_id=0).eos_ids == {0, 2}
    assert from_gguf(eos_token_id=None).eos_ids == frozenset()


def test_user_defined_tokens_are_found_but_not_special() -> None:
    kinds = gguf_metadata(CONFIG)["tokenizer.ggml.token_type"]
    tokenizer = from_gguf(token_type=[4, *kinds[1:]])
    ids = tokenizer.encode(f"a{SMALL_SPECIAL[0]}")
    assert ids[1:] == [0]
    assert tokenizer.decode(ids, skip_special=True) == f"a{SMALL_SPECIAL[0]}"


def test_a_file_without_a_tokenizer_has_none() -> None:
    assert tokenizer_from_gguf(Fields({}, "x"), VOCAB) is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"model": "t5"}, "wanted tokenizer.ggml.model gpt2 .* got t5"),
        ({"pre": "tekken"}, "wanted tokenizer.ggml.pre .* got tekken"),
        ({"pre": None}, "wanted a string for tokenizer.ggml.pre, got nothing"),
        ({"tokens": None}, "wanted a list of strings for tokenizer.ggml.tok"),
        ({"tokens": [1]}, "wanted a list of strings"),
        ({"token_type": [1]}, "wanted 273 values in .*token_type, got 1"),
        ({"merges": ["x y"]}, "wanted merges of the vocabulary's tokens"),
        ({"merges": ["xy"]}, "wanted merges of the vocabulary's tokens"),
        ({"eos_token_id": 300}, r"special token's id in \[0, 300\), got 300"),
        ({"bos_token_id": 300}, r"special token's id in \[0, 300\), got 300"),
    ],
)
def test_a_tokenizer_that_is_not_ours_is_refused(
    metadata: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        from_gguf(**metadata)


def test_wrong_sentencepiece_lists_are_refused() -> None:
    with pytest.raises(ModelError, match="got 1 scores and 266 kinds"):
        sentencepiece_gguf(scores=[0.0])
    with pytest.raises(ModelError, match=r"a list of numbers for .*scores"):
        sentencepiece_gguf(scores=None)
    with pytest.raises(ModelError, match="wanted 2 different tokens, got 1"):
        sentencepiece_bpe(["a", "a"], [0, 0], [1, 1])


def test_more_tokens_than_rows_are_refused() -> None:
    fields = Fields(gguf_metadata(CONFIG), "model.gguf")
    with pytest.raises(ModelError, match=r"at most 272 tokens.*, got 273"):
        tokenizer_from_gguf(fields, 272)


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
