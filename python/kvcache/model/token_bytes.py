"""Which bytes of text a token of the vocabulary stands for.

Text is joined from bytes, never from decoded tokens: one character may lie
across several tokens.
"""

from __future__ import annotations

import re
from functools import cache

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@cache
def _bytes_of_characters() -> dict[str, int]:
    """Maps each character of a byte-level vocabulary to its byte.

    Printable Latin-1 bytes stand for themselves; the others take the characters
    from U+0100 up, in order.

    References:
        Language Models are Unsupervised Multitask Learners (GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    mapped = {chr(byte): byte for byte in printable}
    mapped |= {chr(0x100 + rank): byte for rank, byte in enumerate(others)}
    return mapped


def byte_level_bytes(token: str) -> bytes:
    """Returns the bytes of a token of a byte-level (GPT-2) vocabulary.

    A token with a character that stands for no byte is its own text: only
    added tokens have such.
    """
    table = _bytes_of_characters()
    if all(character in table for character in token):
        return bytes(table[character] for character in token)
    return token.encode("utf-8")


def byte_level_alphabet() -> list[str]:
    """Returns the characters that stand for the bytes 0 to 255, in order."""
    table = _bytes_of_characters()
    return sorted(table, key=table.__getitem__)


def sentencepiece_bytes(token: str) -> bytes:
    """Returns the bytes of a token of a SentencePiece vocabulary.

    `▁` stands for a space and `<0x0A>` for the byte 10.
    """
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(match[1])
    return token.replace("▁", " ").encode("utf-8")
