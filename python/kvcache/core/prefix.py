"""Which page holds the keys and values of which tokens."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from kvcache.core.digest import Digest, keyed_digest
from kvcache.core.entry import Entry, Key
from kvcache.errors import PageStateError
from kvcache.request import TokenIds

_TOKEN_BYTES = 8

Parent: TypeAlias = int | bytes
"""What a page follows: an indexed page, or a namespace before the first."""


class PrefixIndex:
    """Finds the pages of a sequence's longest indexed prefix.

    Each indexed page is a full one. It is known by its token ids and by what
    it follows: an entry that was indexed, or a namespace. The digest only
    finds candidates; equal token ids and the same predecessor decide. So two
    sequences share a page only if they are equal up to its end, whatever the
    digest does. An entry is never used for other contents: what followed a
    removed page is not found behind the page's next contents.

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
        self._entries: dict[int, Entry] = {}
        self._candidates: dict[bytes, list[Entry]] = {}
        self._roots: dict[bytes, set[Entry]] = {}

    def __len__(self) -> int:
        """Returns how many pages are indexed."""
        return len(self._entries)

    def __contains__(self, page: int) -> bool:
        """Returns whether a page is indexed."""
        return page in self._entries

    def get(self, page: int) -> Entry | None:
        """Returns what a page holds, None if it is not indexed."""
        return self._entries.get(page)

    def entry(self, page: int) -> Entry:
        """Returns what a page holds.

        Raises:
            PageStateError: If the page is not indexed.
        """
        if page not in self._entries:
            raise PageStateError(f"wanted an indexed page, page {page} is not")
        return self._entries[page]

    def entries(self) -> list[Entry]:
        """Returns what is indexed, in no order that matters."""
        return list(self._entries.values())

    def children(self, parent: Parent) -> set[Entry]:
        """Returns the entries that follow a page or a namespace.

        Raises:
            PageStateError: If `parent` is a page that is not indexed.
        """
        if isinstance(parent, bytes):
            return self._roots.get(parent, set())
        return self.entry(parent).children

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
        before, digest = self._resolve(parent)
        pages = []
        for content in _pieces(tokens, self.page_size):
            digest = self._digest(digest, content)
            page = self.find(Key(before, digest, content))
            if page is None:
                break
            pages.append(page)
            before = self._entries[page]
        return pages

    def key(self, parent: Parent, tokens: TokenIds) -> Key:
        """Returns what names one page's contents.

        Args:
            parent: What the page follows.
            tokens: Its token ids, `[page_size]`.

        Raises:
            PageStateError: If `parent` is a page that is not indexed, or the
                tokens do not fill a page.
        """
        if tokens.shape != (self.page_size,):
            raise PageStateError(
                f"wanted the tokens of a page of {self.page_size}, got shape "
                f"{tokens.shape}"
            )
        before, digest = self._resolve(parent)
        content = as_bytes(tokens)
        return Key(before, self._digest(digest, content), content)

    def find(self, key: Key) -> int | None:
        """Returns the page that holds some contents, None if none does."""
        for entry in self._candidates.get(key.digest, ()):
            there = entry.key
            if there.tokens == key.tokens and there.parent == key.parent:
                return entry.page
        return None

    def add(self, page: int, key: Key) -> None:
        """Indexes a page whose contents no other has, at the lowest priority.

        Raises:
            PageStateError: If the page is indexed.
        """
        self._check_new(page)
        before = key.parent
        depth = 0 if isinstance(before, bytes) else before.depth + 1
        entry = Entry(page, key, depth)
        self._entries[page] = entry
        self._candidates.setdefault(key.digest, []).append(entry)
        if isinstance(before, bytes):
            self._roots.setdefault(before, set()).add(entry)
        else:
            before.children.add(entry)

    def move(self, page: int, heir: int) -> Entry:
        """Puts a page that is not indexed in the place of one that is.

        Raises:
            PageStateError: If `page` is not indexed, or `heir` is.
        """
        entry = self.entry(page)
        self._check_new(heir)
        del self._entries[page]
        self._entries[heir] = entry
        entry.page = heir
        return entry

    def remove(self, page: int) -> Entry:
        """Forgets what a page holds; what follows it is found no more.

        Raises:
            PageStateError: If the page is not indexed.
        """
        entry = self.entry(page)
        del self._entries[page]
        candidates = self._candidates[entry.key.digest]
        candidates.remove(entry)
        if not candidates:
            del self._candidates[entry.key.digest]
        if not isinstance(entry.parent, bytes):
            entry.parent.children.discard(entry)
            return entry
        siblings = self._roots[entry.parent]
        siblings.remove(entry)
        if not siblings:
            del self._roots[entry.parent]
        return entry

    def subtree(self, page: int) -> list[int]:
        """Returns a page and all that follow it, ascending.

        Raises:
            PageStateError: If the page is not indexed.
        """
        found, todo = [], [self.entry(page)]
        while todo:
            entry = todo.pop()
            found.append(entry.page)
            todo.extend(entry.children)
        return sorted(found)

    def digests(self, namespace: bytes, tokens: TokenIds) -> Iterator[bytes]:
        """Yields the digest of each whole page of a prompt, indexed or not."""
        digest = self._digest(b"", namespace)
        for content in _pieces(tokens, self.page_size):
            digest = self._digest(digest, content)
            yield digest

    def check(self) -> None:
        """Verifies that digests, entries and links agree, each being unique.

        Raises:
            AssertionError: If it is not so.

        Performance:
            Time proportional to what is indexed.
        """
        listed = [e.page for es in self._candidates.values() for e in es]
        assert sorted(listed) == sorted(self._entries), (
            f"{len(listed)} pages under digests, {len(self._entries)} entries"
        )
        for digest, candidates in self._candidates.items():
            for entry in candidates:
                assert entry.key.digest == digest, (
                    f"page {entry.page} is under the digest of another"
                )
        for page, entry in self._entries.items():
            assert entry.page == page, f"{page} is indexed as {entry.page}"
            self._check_links(entry)
        contents = {(e.parent, e.key.tokens) for e in self._entries.values()}
        assert len(contents) == len(self._entries), "two pages hold the same"
        num_roots = sum(e.depth == 0 for e in self._entries.values())
        assert num_roots == sum(map(len, self._roots.values())), (
            "a namespace begins with a lost page"
        )

    def _check_links(self, entry: Entry) -> None:
        """Verifies that parent and children know an entry, without a cycle."""
        before, page = entry.parent, entry.page
        if isinstance(before, bytes):
            assert entry in self._roots[before], f"{page} is no root"
            assert entry.depth == 0, f"{page} follows a namespace"
        else:
            assert self._entries.get(before.page) is before, (
                f"page {page} follows a lost one"
            )
            assert entry in before.children, f"{page} is nobody's child"
            assert entry.depth == before.depth + 1, f"{page} has a wrong depth"
        for child in entry.children:
            assert child.parent is entry, f"{child.page} follows another page"
            assert self._entries.get(child.page) is child, (
                f"page {page} has a lost child"
            )

    def _resolve(self, parent: Parent) -> tuple[Entry | bytes, bytes]:
        """Returns what children refer to, and its digest."""
        if isinstance(parent, bytes):
            return parent, self._digest(b"", parent)
        entry = self.entry(parent)
        return entry, entry.key.digest

    def _check_new(self, page: int) -> None:
        if page in self._entries:
            raise PageStateError(
                f"wanted a page that is not indexed, page {page} is"
            )


def as_bytes(tokens: TokenIds) -> bytes:
    """Returns the ids in order, also those of a strided or narrower array."""
    return tokens.astype(np.int64, copy=False).tobytes()


def _pieces(tokens: TokenIds, page_size: int) -> Iterator[bytes]:
    """Yields the bytes of each whole page of some tokens."""
    content, stride = as_bytes(tokens), _TOKEN_BYTES * page_size
    for end in range(stride, len(content) + 1, stride):
        yield content[end - stride : end]
