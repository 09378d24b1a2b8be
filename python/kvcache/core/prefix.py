"""Which page holds the keys and values of which tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

import numpy as np

from kvcache.core.digest import Digest, keyed_digest
from kvcache.errors import PageStateError
from kvcache.request import TokenIds

_TOKEN_BYTES = 8

Parent: TypeAlias = int | bytes
"""What a page follows: an indexed page, or a namespace before the first."""


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """What an indexed page holds; its fields are never printed."""

    serial: int
    """Names this entry for ever, unlike its page, which is used again."""
    parent: int | bytes = field(repr=False)
    """Serial of the entry before it, or its namespace."""
    digest: bytes = field(repr=False)
    tokens: bytes = field(repr=False)


class PrefixIndex:
    """Finds the pages of a sequence's longest indexed prefix.

    Each indexed page is a full one. It is known by its token ids and by what
    it follows: an entry that was indexed, or a namespace. The digest only
    finds candidates; equal token ids and the same predecessor decide. So two
    sequences share a page only if they are equal up to its end, whatever the
    digest does. Entries are numbered and a number is never used again: what
    followed a removed page is not found behind the page's next contents.

    Args:
        page_size: Tokens per page.
        digest: Finds candidates; keyed by a random secret unless given.

    Performance:
        Constant time per page, unless digests collide.
    """

    def __init__(self, page_size: int, digest: Digest | None = None) -> None:
        """Starts with nothing indexed."""
        self.page_size = page_size
        self._digest = keyed_digest() if digest is None else digest
        self._entries: dict[int, _Entry] = {}
        self._pages: dict[bytes, list[int]] = {}
        self._serials = count()

    def __len__(self) -> int:
        """Returns how many pages are indexed."""
        return len(self._entries)

    def __contains__(self, page: int) -> bool:
        """Returns whether a page is indexed."""
        return page in self._entries

    def match(self, parent: Parent, tokens: TokenIds) -> list[int]:
        """Returns the indexed pages that continue a sequence.

        Args:
            parent: What the tokens follow.
            tokens: The tokens after it, `[num_tokens]`; whole pages of them
                are looked up.

        Returns:
            The pages in order, up to the first one that is not indexed.

        Raises:
            PageStateError: If `parent` is a page that is not indexed.
        """
        identity, digest = self._resolve(parent)
        content, stride = _bytes(tokens), _TOKEN_BYTES * self.page_size
        pages = []
        for end in range(stride, len(content) + 1, stride):
            page_tokens = content[end - stride : end]
            digest = self._digest(digest, page_tokens)
            page = self._find(identity, digest, page_tokens)
            if page is None:
                break
            pages.append(page)
            identity = self._entries[page].serial
        return pages

    def commit(
        self, parent: Parent, pages: Sequence[int], tokens: TokenIds
    ) -> list[int]:
        """Indexes pages that follow each other, unless others hold the same.

        Args:
            parent: What the first page follows.
            pages: The pages in order; none is indexed so far.
            tokens: Their token ids, `[len(pages) * page_size]`.

        Returns:
            The pages that are indexed for these tokens: those given, or in
            their place the ones that were there before.

        Raises:
            PageStateError: If `parent` is a page that is not indexed, one of
                `pages` is or comes twice, or the tokens do not fill them.
        """
        self._check_new(pages, tokens)
        identity, digest = self._resolve(parent)
        content, stride = _bytes(tokens), _TOKEN_BYTES * self.page_size
        indexed = []
        for place, page in enumerate(pages):
            page_tokens = content[place * stride : (place + 1) * stride]
            digest = self._digest(digest, page_tokens)
            found = self._find(identity, digest, page_tokens)
            if found is None:
                found = page
                self._entries[page] = _Entry(
                    next(self._serials), identity, digest, page_tokens
                )
                self._pages.setdefault(digest, []).append(page)
            indexed.append(found)
            identity = self._entries[found].serial
        return indexed

    def remove(self, page: int) -> None:
        """Forgets what a page holds.

        Raises:
            PageStateError: If the page is not indexed.
        """
        digest = self._entry(page).digest
        del self._entries[page]
        candidates = self._pages[digest]
        candidates.remove(page)
        if not candidates:
            del self._pages[digest]

    def parents(self) -> dict[int, int | None]:
        """Returns the page that each indexed page follows.

        Returns:
            None for a page that follows a namespace. A page whose predecessor
            was removed is left out: no match can reach it any more.

        Performance:
            Time proportional to what is indexed; meant for checks.
        """
        pages = {entry.serial: page for page, entry in self._entries.items()}
        parents: dict[int, int | None] = {}
        for page, entry in self._entries.items():
            if isinstance(entry.parent, bytes):
                parents[page] = None
            elif entry.parent in pages:
                parents[page] = pages[entry.parent]
        return parents

    def check(self) -> None:
        """Verifies that digests and entries agree, each entry being unique.

        Raises:
            AssertionError: If it is not so.

        Performance:
            Time proportional to what is indexed.
        """
        listed = [page for pages in self._pages.values() for page in pages]
        assert sorted(listed) == sorted(self._entries), (
            f"{len(listed)} pages under digests, {len(self._entries)} entries"
        )
        for digest, pages in self._pages.items():
            for page in pages:
                assert self._entries[page].digest == digest, (
                    f"page {page} is under the digest of another"
                )
        contents = {(e.parent, e.tokens) for e in self._entries.values()}
        assert len(contents) == len(self._entries), "two pages hold the same"

    def _check_new(self, pages: Sequence[int], tokens: TokenIds) -> None:
        for page in pages:
            if page in self._entries:
                raise PageStateError(
                    f"wanted a page that is not indexed, page {page} is"
                )
        if len(set(pages)) < len(pages):
            raise PageStateError("wanted each page once")
        if tokens.shape != (len(pages) * self.page_size,):
            raise PageStateError(
                f"wanted the tokens of {len(pages)} pages of {self.page_size}, "
                f"got shape {tokens.shape}"
            )

    def _entry(self, page: int) -> _Entry:
        if page not in self._entries:
            raise PageStateError(f"wanted an indexed page, page {page} is not")
        return self._entries[page]

    def _resolve(self, parent: Parent) -> tuple[int | bytes, bytes]:
        """Returns what children store of a parent, and its digest."""
        if isinstance(parent, bytes):
            return parent, self._digest(b"", parent)
        entry = self._entry(parent)
        return entry.serial, entry.digest

    def _find(
        self, parent: int | bytes, digest: bytes, tokens: bytes
    ) -> int | None:
        """Returns the candidate that follows `parent` and holds `tokens`."""
        for page in self._pages.get(digest, ()):
            entry = self._entries[page]
            if entry.tokens == tokens and entry.parent == parent:
                return page
        return None


def _bytes(tokens: TokenIds) -> bytes:
    """Returns the ids in order, also those of a strided or narrower array."""
    return tokens.astype(np.int64, copy=False).tobytes()
