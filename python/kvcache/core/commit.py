"""Makes computed pages findable, and takes that back."""

from dataclasses import dataclass

import numpy as np

from kvcache.core.books import Books
from kvcache.core.prefix import as_bytes
from kvcache.core.values import Batch
from kvcache.errors import PageStateError, RequestStateError
from kvcache.request import TokenIds

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True)
class _Span:
    """Pages of a sequence that are to be committed, in order."""

    seq: int
    column: int
    """Where they begin."""
    tokens: list[TokenIds]
    """Token ids of each page, `[page_size]`."""


def commit(books: Books, batch: Batch) -> None:
    """Makes full pages findable; see `CacheCore.commit`."""
    rows = zip(
        batch.seqs.tolist(), batch.processed.tolist(), batch.tokens, strict=True
    )
    spans = [_span(books, *row) for row in rows]
    _check_contents(books, spans)
    for span in spans:
        _commit(books, span)


def drop(books: Books, seq: int, column: int) -> None:
    """Makes pages from a column on unfindable; see `CacheCore.drop`."""
    books.seqs.namespace(seq)
    if column < 0:
        raise RequestStateError(f"wanted a column from 0 on, got {column}")
    for page in books.row(seq, column, column + 1):
        forget_page(books, page)


def forget_page(books: Books, page: int) -> None:
    """Makes a page and what follows unfindable; see `CacheCore.forget_page`."""
    num_pages = len(books.tiers.device) + len(books.tiers.host)
    if not 0 <= page < num_pages:
        raise PageStateError(
            f"wanted a page from 0 to {num_pages - 1}, got {page}"
        )
    entry = books.index.get(page)
    if entry is None:
        return
    books.tiers.forget(books.index.subtree(page))
    committed, column = books.seqs.committed, entry.depth
    for seq in books.seqs.claimed():
        if books.row(seq, column, column + 1) == [page]:
            committed[seq] = min(committed[seq], column)


def _span(books: Books, seq: int, processed: int, tokens: TokenIds) -> _Span:
    """Returns what is to be committed of a sequence.

    Raises:
        RequestStateError: If pages or token ids are not there, or out of range.
    """
    books.seqs.namespace(seq)
    size = books.page_size
    begin, end = int(books.seqs.committed[seq]), processed // size
    if end > books.seqs.num_held(seq):
        raise RequestStateError(
            f"wanted to commit pages that the sequence holds, got {processed} "
            f"processed tokens and {books.seqs.num_held(seq)} pages"
        )
    if end <= begin:
        return _Span(seq, begin, [])
    if processed > len(tokens):
        raise RequestStateError(
            f"wanted at most {len(tokens)} tokens to be processed, got "
            f"{processed}"
        )
    ids = tokens[begin * size : end * size]
    if ids.min() < _INT32.min or ids.max() > _INT32.max:
        raise RequestStateError("wanted token ids of 32 bits, got a wider one")
    pieces = [ids[at : at + size] for at in range(0, len(ids), size)]
    return _Span(seq, begin, pieces)


def _check_contents(books: Books, spans: list[_Span]) -> None:
    """Verifies that no page is to be findable with two contents.

    Raises:
        RequestStateError: If one is.
    """
    known: dict[int, bytes] = {}
    for span in spans:
        pages = books.row(span.seq, span.column)
        for page, tokens in zip(pages, span.tokens, strict=False):
            content = as_bytes(tokens)
            entry = books.index.get(page)
            there = known.setdefault(page, content)
            if content != (there if entry is None else entry.key.tokens):
                raise RequestStateError(
                    f"wanted page {page} with the tokens that it is findable "
                    f"with, got others"
                )


def _commit(books: Books, span: _Span) -> None:
    """Indexes a sequence's pages, up to a shared one that is there already."""
    retention = books.seqs.retention[span.seq]
    for column, tokens in enumerate(span.tokens, span.column):
        own = books.page(span.seq, column)
        if own not in books.index:
            key = books.index.key(books.parent(span.seq, column), tokens)
            found = books.index.find(key)
            if found is None:
                books.index.add(own, key)
            elif books.tiers.is_host(found):
                books.tiers.recall(found, own)
            elif books.tiers.device.ref_count(own) > 1:
                return
            else:
                books.tiers.device.retain([found])
                books.tiers.device.release([own])
                books.seqs.table.replace(span.seq, column, [found])
        there = books.index.entry(books.page(span.seq, column))
        books.clock.lift(there, retention)
        books.seqs.committed[span.seq] = column + 1
