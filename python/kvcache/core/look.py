"""Looks at what is cached, and at what was, without touching it."""

from collections.abc import Container, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvcache.core.books import Books
from kvcache.core.entry import Entry
from kvcache.core.values import Probe
from kvcache.request import TokenIds


@dataclass(frozen=True, slots=True)
class Partial:
    """A page of which only the beginning fits."""

    page: int
    length: int
    """Tokens of the beginning."""


def longest_partial(
    entries: Iterable[Entry], tokens: TokenIds, pages: Container[int]
) -> Partial | None:
    """Returns the page that begins most like some tokens.

    Args:
        entries: What to choose from.
        tokens: What is looked for, `[num_tokens]`, at most a page.
        pages: Pages that count.

    Returns:
        The lowest of the pages that share most, None if none shares a token.
    """
    best = Partial(-1, 0)
    for entry in entries:
        if entry.page not in pages:
            continue
        there = np.frombuffer(entry.key.tokens, np.int64)[: len(tokens)]
        differs = np.flatnonzero(there != tokens)
        length = int(differs[0]) if differs.size else len(tokens)
        if (length, -entry.page) > (best.length, -best.page):
            best = Partial(entry.page, length)
    return best if best.length else None


def probe(books: Books, namespace: bytes, tokens: TokenIds) -> Probe:
    """Returns what is cached of a prompt; see `CacheCore.probe`."""
    pages = books.index.match(namespace, tokens)
    rest = tokens[len(pages) * books.page_size :][: books.page_size]
    parent = pages[-1] if pages else namespace
    partial = longest_partial(
        books.index.children(parent), rest, range(2**63 - 1)
    )
    length = 0 if partial is None else partial.length
    return Probe(np.array(pages, np.uint32), length)


def evicted_at(
    books: Books, namespace: bytes, tokens: TokenIds
) -> npt.NDArray[np.float64]:
    """Returns when pages were evicted; see `CacheCore.evicted_at`."""
    ghosts = books.tiers.ghosts
    digests = books.index.digests(namespace, tokens)
    return np.array([ghosts.time(digest) for digest in digests], np.float64)
