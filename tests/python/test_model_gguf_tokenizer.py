from typing import Any

import pytest

from gguf_files import PIECES, byte_level, gguf_metadata, sentencepiece
from kvcache.model import ModelError
from kvcache.model.fields import Fields
from kvcache.model.gguf_tokenizer import tokenizer_from_gguf
from kvcache.model.sentencepiece_bpe import NORMAL, UNKNOWN, sentencepiece_bpe
from models import SMALL_SPECIAL, small_config

CONFIG = small_config()
VOCAB = CONFIG.vocab_size
BYTE_LEVEL = byte_level()
SENTENCEPIECE = sentencepiece()


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
    tokenizer = sentencepiece(add_space_prefix=False)
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
    backend = byte_level(pre=pre)._backend
    split = backend.pre_tokenizer.pre_tokenize_str("ab 1998!")
    assert [word.replace("Ġ", " ") for word, _ in split] == words


def test_every_kind_of_end_ends_an_answer() -> None:
    assert BYTE_LEVEL.eos_ids == {2}
    assert BYTE_LEVEL.bos_id == 1
    assert byte_level(eot_token_id=0).eos_ids == {0, 2}
    assert byte_level(eos_token_id=None).eos_ids == frozenset()


def test_user_defined_tokens_are_found_but_not_special() -> None:
    kinds = gguf_metadata(CONFIG)["tokenizer.ggml.token_type"]
    tokenizer = byte_level(token_type=[4, *kinds[1:]])
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
        byte_level(**metadata)


def test_wrong_sentencepiece_lists_are_refused() -> None:
    with pytest.raises(ModelError, match="got 1 scores and 266 kinds"):
        sentencepiece(scores=[0.0])
    with pytest.raises(ModelError, match=r"a list of numbers for .*scores"):
        sentencepiece(scores=None)
    with pytest.raises(ModelError, match="wanted 2 different tokens, got 1"):
        sentencepiece_bpe(["a", "a"], [0, 0], [1, 1])


def test_more_tokens_than_rows_are_refused() -> None:
    fields = Fields(gguf_metadata(CONFIG), "model.gguf")
    with pytest.raises(ModelError, match=r"at most 272 tokens.*, got 273"):
        tokenizer_from_gguf(fields, 272)
