"""Builds a tokenizer from GGUF metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvcache.model.chat_template import ChatTemplate
from kvcache.model.error import ModelError, require
from kvcache.model.fields import Fields
from kvcache.model.sentencepiece_bpe import (
    CONTROL,
    USER_DEFINED,
    sentencepiece_bpe,
)
from kvcache.model.token_bytes import byte_level_bytes, sentencepiece_bytes
from kvcache.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

_KEY = "tokenizer.ggml"
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")

_GPT2 = ("gpt2", "gpt-2")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_LLAMA3_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
"""How Llama 3 splits text into words (published with its tokenizer)."""


def tokenizer_from_gguf(fields: Fields, vocab_size: int) -> Tokenizer | None:
    """Builds the tokenizer that a GGUF file describes.

    Args:
        fields: The file's metadata.
        vocab_size: Rows of the model's embedding.

    Returns:
        The tokenizer, or None where the file has none.

    Raises:
        ModelError: If its kind is not one that we can build, or the metadata
            contradicts itself.
    """
    kind = fields.optional_text(f"{_KEY}.model")
    if kind in (None, "none"):
        return None
    if kind not in ("gpt2", "llama"):
        raise ModelError(
            f"{fields.source}: wanted {_KEY}.model gpt2 (byte-level BPE) or "
            f"llama (SentencePiece BPE), got {kind}"
        )
    byte_level = kind == "gpt2"
    pre = fields.text(f"{_KEY}.pre", "")
    tokens = fields.texts(f"{_KEY}.tokens")
    kinds = fields.integers(f"{_KEY}.token_type")
    add_space = fields.flag(f"{_KEY}.add_space_prefix", not byte_level)
    bos_id = fields.optional_integer(f"{_KEY}.bos_token_id")
    ends = [fields.optional_integer(f"{_KEY}.{end}") for end in _ENDS]
    return Tokenizer(
        _byte_level_bpe(fields, tokens, kinds)
        if byte_level
        else sentencepiece_bpe(
            tokens,
            fields.numbers(f"{_KEY}.scores"),
            kinds,
            add_space_prefix=add_space,
        ),
        token_bytes=byte_level_bytes if byte_level else sentencepiece_bytes,
        vocab_size=vocab_size,
        bos_id=bos_id,
        add_bos=fields.flag(
            f"{_KEY}.add_bos_token", not byte_level or pre in _LLAMA3
        ),
        eos_ids=[end for end in ends if end is not None],
        strip_space=add_space and not byte_level,
        chat_template=_chat_template(fields, tokens, bos_id, ends[0]),
    )


def _byte_level_bpe(
    fields: Fields, tokens: list[str], kinds: list[int]
) -> tokenizers.Tokenizer:
    if len(kinds) != len(tokens):
        raise ModelError(
            f"{fields.source}: wanted {len(tokens)} values in "
            f"{_KEY}.token_type, got {len(kinds)}"
        )
    package = require("tokenizers")
    merges = [
        tuple(merge.split(" ", 1)) for merge in fields.texts(f"{_KEY}.merges")
    ]
    pre = fields.text(f"{_KEY}.pre")
    try:
        model = package.models.BPE(
            vocab={token: id_ for id_, token in enumerate(tokens)},
            merges=merges,
            ignore_merges=pre in _LLAMA3,
        )
    except Exception as error:  # what the package raises has no class
        raise ModelError(
            f"{fields.source}: wanted merges of the vocabulary's tokens, got "
            f"{error}"
        ) from error
    backend: tokenizers.Tokenizer = package.Tokenizer(model)
    backend.pre_tokenizer = _pre_tokenizer(pre, fields.source)
    backend.decoder = package.decoders.ByteLevel()
    backend.add_tokens(
        [
            package.AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (CONTROL, USER_DEFINED)
        ]
    )
    return backend


def _pre_tokenizer(pre: str, source: str) -> Any:
    """Returns how text is split into words before the merges."""
    kinds = require("tokenizers.pre_tokenizers")
    package = require("tokenizers")
    if pre in _GPT2:
        return kinds.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in _SINGLE_DIGITS:
        digits = kinds.Digits(individual_digits=True)
        words = kinds.ByteLevel(add_prefix_space=False, use_regex=True)
        return kinds.Sequence([digits, words])
    if pre in _LLAMA3:
        words = kinds.Split(package.Regex(_LLAMA3_WORDS), behavior="isolated")
        spelt = kinds.ByteLevel(add_prefix_space=False, use_regex=False)
        return kinds.Sequence([words, spelt])
    known = ", ".join((*_GPT2, *_SINGLE_DIGITS, *_LLAMA3))
    raise ModelError(
        f"{source}: wanted {_KEY}.pre to be one of {known}; got {pre}"
    )


def _chat_template(
    fields: Fields, tokens: list[str], bos_id: int | None, eos_id: int | None
) -> ChatTemplate | None:
    source = fields.optional_text("tokenizer.chat_template")
    if source is None:
        return None

    def spelling(token: int | None) -> str:
        known = token is not None and 0 <= token < len(tokens)
        return tokens[token] if known and token is not None else ""

    return ChatTemplate(
        source, bos_token=spelling(bos_id), eos_token=spelling(eos_id)
    )
