"""Builds a tokenizer from a SentencePiece vocabulary with scores.

SentencePiece's BPE joins, again and again, the two neighbours whose union has
the best score. That is a list of merges, ordered by the score of their union.

References:
    SentencePiece, https://arxiv.org/abs/1808.06226.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kvcache.model.error import ModelError, require

if TYPE_CHECKING:
    import tokenizers

SPACE: Final = "▁"
"""What the vocabulary writes for a space."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Kinds of token, numbered as GGUF and SentencePiece number them."""


def sentencepiece_bpe(
    tokens: Sequence[str],
    scores: Sequence[float],
    kinds: Sequence[int],
    *,
    add_space_prefix: bool = True,
) -> tokenizers.Tokenizer:
    """Builds the tokenizer of a vocabulary.

    Args:
        tokens: The spelling of each token, `[vocab_size]`; spaces are `▁`, a
            byte is `<0x0A>`.
        scores: The score of each token, `[vocab_size]`; higher merges first.
        kinds: The kind of each token, `[vocab_size]`.
        add_space_prefix: Whether a text is taken as if a space came first.

    Returns:
        The tokenizer; characters without a token fall back to bytes.

    Raises:
        ModelError: If the lists differ in length, or a spelling comes twice.
    """
    if not len(tokens) == len(scores) == len(kinds):
        raise ModelError(
            f"tokenizer: wanted a score and a kind for each of {len(tokens)} "
            f"tokens, got {len(scores)} scores and {len(kinds)} kinds"
        )
    ids = {token: id_ for id_, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ModelError(
            f"tokenizer: wanted {len(tokens)} different tokens, got {len(ids)}"
        )
    package = require("tokenizers")
    unknown = tokens[kinds.index(UNKNOWN)] if UNKNOWN in kinds else None
    model = package.models.BPE(
        vocab=ids,
        merges=_merges(tokens, scores, kinds),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    backend: tokenizers.Tokenizer = package.Tokenizer(model)
    _write_spaces(backend, add_space_prefix)
    backend.add_tokens(
        [
            package.AddedToken(
                token, special=kind != USER_DEFINED, normalized=False
            )
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ]
    )
    return backend


def _write_spaces(backend: tokenizers.Tokenizer, add_prefix: bool) -> None:
    """Makes spaces visible before the merges, and spaces again after."""
    package = require("tokenizers")
    before, after = package.normalizers, package.decoders
    prefix = [before.Prepend(SPACE)] if add_prefix else []
    strip = [after.Strip(" ", 1, 0)] if add_prefix else []
    backend.normalizer = before.Sequence([*prefix, before.Replace(" ", SPACE)])
    spaces = after.Replace(SPACE, " ")
    backend.decoder = after.Sequence(
        [spaces, after.ByteFallback(), after.Fuse(), *strip]
    )


def _merges(
    tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int]
) -> list[tuple[str, str]]:
    """Lists every pair of tokens that makes a token, best score first."""
    words = {
        token: score
        for token, score, kind in zip(tokens, scores, kinds, strict=True)
        if kind in (NORMAL, USER_DEFINED)
    }
    return [
        (word[:cut], word[cut:])
        for word in sorted(words, key=words.__getitem__, reverse=True)
        for cut in range(1, len(word))
        if word[:cut] in words and word[cut:] in words
    ]
