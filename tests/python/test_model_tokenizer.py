from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_files import byte_level, sentencepiece
from kvcache.model import ModelError, Tokenizer
from kvcache.model.token_bytes import (
    byte_level_alphabet,
    byte_level_bytes,
    sentencepiece_bytes,
)
from models import small_config, small_tokenizer

CONFIG = small_config()
VOCAB = CONFIG.vocab_size
BYTE_LEVEL = byte_level()
SENTENCEPIECE = sentencepiece()


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


def test_the_start_token_comes_once() -> None:
    tokenizer = byte_level(add_bos_token=True)
    assert tokenizer.encode("a") == [1, *BYTE_LEVEL.encode("a")]
    assert tokenizer.encode("<|im_start|>a") == tokenizer.encode("a")
    assert tokenizer.encode("") == [1]
    assert BYTE_LEVEL.encode("") == []
