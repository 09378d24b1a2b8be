"""The token streams that every side gets: drawn, with fixed seeds."""

import functools
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

TokenIds: TypeAlias = npt.NDArray[np.int64]
"""Token ids, `[num_tokens]`."""

VOCAB_SIZE = 128_000


def draw(seed: int, *shape: int) -> npt.NDArray[np.int64]:
    """Returns token ids that are the same in every run."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, VOCAB_SIZE, shape, dtype=np.int64)


def cold_prompts(num_requests: int, num_tokens: int) -> list[TokenIds]:
    """Returns prompts that share nothing, `num_tokens` each."""
    return list(draw(1, num_requests, num_tokens))


def shared_prompts(
    num_requests: int, num_shared: int, num_own: int
) -> list[TokenIds]:
    """Returns prompts that begin alike, and then share nothing."""
    shared = draw(2, num_shared)
    owns = draw(3, num_requests, num_own)
    return [np.concatenate([shared, own]) for own in owns]


def uneven_prompts(num_requests: int, num_tokens: int) -> list[TokenIds]:
    """Returns prompts of about `num_tokens`, a twentieth more or less.

    So the pages of some of them fill up in each step.
    """
    rng = np.random.default_rng(4)
    band = num_tokens // 20
    lengths = rng.integers(num_tokens - band, num_tokens + band, num_requests)
    return [draw(5 + row, int(n)) for row, n in enumerate(lengths)]


def zipf_ranks(num_requests: int, num_documents: int) -> list[int]:
    """Returns which document each request is about: rank r as often as 1/r."""
    weights = 1 / np.arange(1, num_documents + 1)
    rng = np.random.default_rng(6)
    drawn = rng.choice(num_documents, num_requests, p=weights / weights.sum())
    ranks: list[int] = drawn.tolist()
    return ranks


def document_prompt(
    rank: int, serial: int, document: int, own: int
) -> TokenIds:
    """Returns a document and what one request adds to it.

    Args:
        rank: The document.
        serial: The request; no two add the same.
        document: Tokens of the document.
        own: Tokens that are added.
    """
    return np.concatenate(
        [_document(rank, document), draw(2_000_000 + serial, own)]
    )


@functools.cache
def _document(rank: int, num_tokens: int) -> TokenIds:
    return draw(1_000_000 + rank, num_tokens)


def in_passes(
    prompts: list[TokenIds], pass_size: int
) -> Iterator[list[TokenIds]]:
    """Yields what a scheduler admits pass by pass."""
    for begin in range(0, len(prompts), pass_size):
        yield prompts[begin : begin + pass_size]
