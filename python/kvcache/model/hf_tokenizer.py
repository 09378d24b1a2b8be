"""Builds a tokenizer from the files of a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvcache.model.chat_template import ChatTemplate
from kvcache.model.error import ModelError, require
from kvcache.model.fields import Fields
from kvcache.model.token_bytes import byte_level_bytes, sentencepiece_bytes
from kvcache.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

_SENTENCEPIECE = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


def tokenizer_from_folder(
    folder: Path, config: Fields, vocab_size: int
) -> Tokenizer | None:
    """Builds the tokenizer of a folder.

    Args:
        folder: May hold `tokenizer.json`, `tokenizer_config.json`,
            `generation_config.json` and `chat_template.jinja`.
        config: What its `config.json` says.
        vocab_size: Rows of the model's embedding.

    Returns:
        The tokenizer, or None where there is no `tokenizer.json`.

    Raises:
        ModelError: If a file is damaged, or its tokens are spelt in a way that
            we do not know.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    backend = _read_backend(path)
    settings = _optional(folder / "tokenizer_config.json")
    generation = _optional(folder / "generation_config.json")
    token_bytes, strip_space = _spelling(backend, path)
    bos_token = _token_text(settings, "bos_token")
    eos_token = _token_text(settings, "eos_token")
    bos_id = backend.token_to_id(bos_token) if bos_token else None
    if bos_id is None:
        bos_id = next(iter(_ids(config, "bos_token_id")), None)
    eos_ids = _ids(generation, "eos_token_id") or _ids(config, "eos_token_id")
    eos_id = backend.token_to_id(eos_token) if eos_token else None
    return Tokenizer(
        backend,
        token_bytes=token_bytes,
        vocab_size=vocab_size,
        bos_id=bos_id,
        add_bos=bos_id in backend.encode("").ids,
        eos_ids=eos_ids if eos_id is None else {*eos_ids, eos_id},
        strip_space=strip_space,
        chat_template=_chat_template(folder, settings, bos_token, eos_token),
    )


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    package = require("tokenizers")
    try:
        backend: tokenizers.Tokenizer = package.Tokenizer.from_file(str(path))
    except Exception as error:  # what the package raises has no class
        raise ModelError(
            f"{path}: wanted a file of the tokenizers library, got {error}"
        ) from error
    backend.no_padding()
    backend.no_truncation()
    return backend


def _optional(path: Path) -> Fields:
    return Fields.from_json(path) if path.exists() else Fields({}, str(path))


def _spelling(
    backend: tokenizers.Tokenizer, path: Path
) -> tuple[Callable[[str], bytes], bool]:
    """Tells how tokens are spelt from the parts of the decoder."""
    decoder = backend.decoder
    if decoder is None:
        raise ModelError(f"{path}: wanted a decoder, got none")
    parts = list(_parts(json.loads(decoder.__getstate__())))
    kinds = {part["type"] for part in parts}
    if kinds == {"ByteLevel"}:
        return byte_level_bytes, False
    if kinds and kinds <= _SENTENCEPIECE:
        return sentencepiece_bytes, bool(kinds & {"Strip", "Metaspace"})
    raise ModelError(
        f"{path}: wanted a byte-level or a SentencePiece decoder, got "
        f"{', '.join(sorted(kinds)) or 'none'}"
    )


def _parts(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        yield decoder
        return
    for part in decoder["decoders"]:
        yield from _parts(part)


def _token_text(settings: Fields, key: str) -> str:
    """Reads a token that is spelt out, or an object that spells it."""
    value = settings[key]
    if isinstance(value, dict):
        return Fields(value, settings.source).text("content")
    return settings.text(key, "")


def _ids(fields: Fields, key: str) -> list[int]:
    """Reads one id or a list of them."""
    if isinstance(fields[key], list):
        return fields.integers(key)
    token = fields.optional_integer(key)
    return [] if token is None else [token]


def _chat_template(
    folder: Path, settings: Fields, bos_token: str, eos_token: str
) -> ChatTemplate | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        source: str | None = path.read_text(encoding="utf-8")
    elif isinstance(named := settings["chat_template"], list):
        source = _default_template(named)
    else:
        source = settings.optional_text("chat_template")
    if source is None:
        return None
    return ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)


def _default_template(named: list[Any]) -> str | None:
    """Picks the template called default out of several."""
    for entry in named:
        if isinstance(entry, dict) and entry.get("name") == "default":
            return Fields(entry, "chat_template").text("template")
    return None
