import logging
from itertools import count

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from kvcache.core.digest import keyed_digest, namespace, sha256_digest
from kvcache.core.prefix import PrefixIndex
from kvcache.errors import PageStateError

ROOT = namespace(cache_salt=None, model_name="")


def row(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int64)


def collide(parent: bytes, content: bytes) -> bytes:
    """A digest that says the same of everything."""
    del parent, content
    return b""


def commit(index, parent, pages, tokens) -> list[int]:
    """Indexes pages of a chain, those that are not there under others."""
    chain = []
    for place, page in enumerate(pages):
        begin = place * index.page_size
        key = index.key(parent, tokens[begin : begin + index.page_size])
        found = index.find(key)
        if found is None:
            index.add(page, key)
        chain.append(page if found is None else found)
        parent = chain[-1]
    return chain


DIGESTS = [None, collide, sha256_digest]


@pytest.mark.parametrize("digest", DIGESTS)
def test_a_chain_matches_up_to_where_it_differs(digest) -> None:
    index = PrefixIndex(2, digest)
    assert commit(index, ROOT, [7, 3, 5], row(1, 2, 3, 4, 5, 6)) == [7, 3, 5]
    assert index.match(ROOT, row(1, 2, 3, 4, 5, 6)) == [7, 3, 5]
    assert index.match(ROOT, row(1, 2, 3, 4, 5, 6, 7, 8)) == [7, 3, 5]
    assert index.match(ROOT, row(1, 2, 3, 4, 6, 5)) == [7, 3]
    assert index.match(ROOT, row(1, 2, 3)) == [7]  # A page must be full.
    assert index.match(ROOT, row(1)) == []
    assert index.match(ROOT, row(3, 4)) == []  # In its place only.
    assert index.match(7, row(3, 4, 5, 6)) == [3, 5]


@pytest.mark.parametrize("digest", DIGESTS)
def test_namespaces_share_nothing(digest) -> None:
    index = PrefixIndex(1, digest)
    salts = [None, "", "a"]
    for page, salt in enumerate(salts):
        root = namespace(cache_salt=salt, model_name="m")
        assert index.match(root, row(1)) == []
        assert commit(index, root, [page], row(1)) == [page]
    for page, salt in enumerate(salts):
        root = namespace(cache_salt=salt, model_name="m")
        assert index.match(root, row(1)) == [page]
    assert index.match(namespace(cache_salt=None, model_name="n"), row(1)) == []


@pytest.mark.parametrize("digest", DIGESTS)
def test_the_page_that_was_there_first_stays(digest) -> None:
    index = PrefixIndex(2, digest)
    commit(index, ROOT, [5, 6], row(1, 2, 3, 4))
    assert commit(index, ROOT, [8, 9, 2], row(1, 2, 3, 4, 9, 9)) == [5, 6, 2]
    assert len(index) == 3
    assert [page in index for page in (8, 9, 2)] == [False, False, True]
    assert index.match(ROOT, row(1, 2, 3, 4, 9, 9)) == [5, 6, 2]


@pytest.mark.parametrize("digest", DIGESTS)
def test_what_followed_a_removed_page_is_not_found_behind_its_heir(
    digest,
) -> None:
    index = PrefixIndex(1, digest)
    commit(index, ROOT, [0, 1], row(10, 20))
    index.remove(0)  # Its child stays, out of reach.
    assert index.match(ROOT, row(10, 20)) == []
    # Page 0 is used again, for other tokens, and then for the same ones.
    commit(index, ROOT, [0], row(11))
    assert index.match(ROOT, row(11, 20)) == [0]
    index.remove(0)
    commit(index, ROOT, [0], row(10))
    assert index.match(ROOT, row(10, 20)) == [0]
    assert index.children(0) == set()
    with pytest.raises(AssertionError, match="page 1 follows a lost one"):
        index.check()
    index.remove(1)
    index.check()
    assert len(index) == 1


@pytest.mark.parametrize("digest", DIGESTS)
def test_contents_that_move_keep_what_follows_them(digest) -> None:
    index = PrefixIndex(1, digest)
    commit(index, ROOT, [0, 1, 2], row(10, 20, 30))
    entry = index.entry(1)
    assert index.move(1, 9) is entry
    assert index.match(ROOT, row(10, 20, 30)) == [0, 9, 2]
    assert (index.get(1), index.get(9)) == (None, entry)
    assert {child.page for child in index.children(9)} == {2}
    index.check()
    with pytest.raises(PageStateError, match="page 2 is"):
        index.move(9, 2)
    with pytest.raises(PageStateError, match="page 1 is not"):
        index.move(1, 7)


def test_a_subtree_is_a_page_and_all_that_follow_it() -> None:
    index = PrefixIndex(1)
    commit(index, ROOT, [5, 9, 3], row(1, 2, 3))
    commit(index, 9, [8, 4], row(7, 7))
    commit(index, ROOT, [6], row(2))
    assert index.subtree(9) == [3, 4, 8, 9]
    assert index.subtree(4) == [4]
    assert {child.page for child in index.children(9)} == {3, 8}
    assert {child.page for child in index.children(ROOT)} == {5, 6}
    assert index.children(b"nobody") == set()


def test_strided_and_narrow_tokens_are_read_as_they_look() -> None:
    index = PrefixIndex(2)
    commit(index, ROOT, [0, 1], row(1, 2, 3, 4))
    strided = np.repeat(row(1, 2, 3, 4), 3)[::3]
    assert not strided.flags.c_contiguous
    assert index.match(ROOT, strided) == [0, 1]
    assert index.match(ROOT, row(4, 3, 2, 1)[::-1]) == [0, 1]
    assert index.match(ROOT, np.array([1, 2, 3, 4], np.int32)) == [0, 1]


@pytest.mark.parametrize(
    ("parent", "page", "tokens", "message"),
    [
        (ROOT, 0, [5, 6], "page 0 is"),
        (ROOT, 4, [5], "a page of 2, got shape"),
        (ROOT, 4, [5, 6, 7], "got shape"),
        (9, 4, [5, 6], "page 9 is not"),
    ],
)
def test_what_raises_has_changed_nothing(parent, page, tokens, message) -> None:
    index = PrefixIndex(2)
    commit(index, ROOT, [0], row(1, 2))
    with pytest.raises(PageStateError, match=message):
        index.add(page, index.key(parent, row(*tokens)))
    assert len(index) == 1
    index.check()


def test_removing_wants_an_indexed_page() -> None:
    with pytest.raises(PageStateError, match="page 3 is not"):
        PrefixIndex(2).remove(3)
    with pytest.raises(PageStateError, match="page 3 is not"):
        PrefixIndex(2).match(3, row(1, 2))


def test_namespace_fields_cannot_run_into_each_other() -> None:
    spaces = [
        namespace(cache_salt=salt, model_name=model)
        for salt in (None, "", "a", "ab", "salt", "model")
        for model in ("", "b", "ba", "a", "salt", "model\0salta")
    ]
    assert len(set(spaces)) == len(spaces)


def test_digests_depend_on_the_parent_the_content_and_the_key() -> None:
    for digest in (keyed_digest(), sha256_digest):
        assert digest(b"a", b"b") == digest(b"a", b"b")
        sums = {digest(b"a", b"b"), digest(b"", b"ab"), digest(b"ab", b"")}
        assert len(sums) == 3
    assert keyed_digest()(b"a", b"b") != keyed_digest()(b"a", b"b")


def test_nothing_is_logged_or_printed_of_what_is_cached(caplog) -> None:
    caplog.set_level(logging.DEBUG)
    index = PrefixIndex(1)
    root = namespace(cache_salt="secret", model_name="m")
    commit(index, root, [0], row(4321))
    entry = repr(index._entries[0])
    assert "secret" not in entry + repr(index)
    assert str(row(4321).tobytes())[2:-1] not in entry
    assert not caplog.records


TOKENS = st.lists(st.integers(0, 1), min_size=2, max_size=2)


class PrefixMachine(RuleBasedStateMachine):
    """Against a dict from a namespace and a prefix to its page."""

    chains = Bundle("chains")

    @initialize(digest=st.sampled_from(DIGESTS))
    def start(self, digest) -> None:
        self.index = PrefixIndex(2, digest)
        self.model: dict[tuple[bytes, tuple[int, ...]], int] = {}
        self.fresh = count()

    @initialize(target=chains)
    def roots(self):
        salts = (None, "", "x")
        return multiple(
            *((namespace(cache_salt=s, model_name=""), ()) for s in salts)
        )

    def page_of(self, chain):
        return self.model.get(chain)

    def parent(self, chain):
        return self.page_of(chain) if chain[1] else chain[0]

    @rule(target=chains, chain=chains, tokens=st.lists(TOKENS, max_size=3))
    def commit(self, chain, tokens):
        space, prefix = chain
        if prefix and self.page_of(chain) is None:
            return multiple()  # It was removed.
        pages = [next(self.fresh) for _ in tokens]
        flat = [token for piece in tokens for token in piece]
        chains, expected = [], []
        for page, piece in zip(pages, tokens, strict=True):
            prefix = (*prefix, *piece)
            expected.append(self.model.setdefault((space, prefix), page))
            chains.append((space, prefix))
        got = commit(self.index, self.parent(chain), pages, row(*flat))
        assert got == expected
        return multiple(*chains)

    @rule(chain=chains)
    def remove_leaf(self, chain):
        space, prefix = chain
        children = [
            other
            for other in self.model
            if other[0] == space
            and len(other[1]) > len(prefix)
            and other[1][: len(prefix)] == prefix
        ]
        if self.page_of(chain) is None or children:
            return
        self.index.remove(self.model.pop(chain))

    @rule(chain=chains, tokens=st.lists(st.integers(0, 1), max_size=7))
    def match(self, chain, tokens):
        space, prefix = chain
        if prefix and self.page_of(chain) is None:
            return
        expected = []
        for end in range(2, len(tokens) + 1, 2):
            page = self.model.get((space, (*prefix, *tokens[:end])))
            if page is None:
                break
            expected.append(page)
        assert self.index.match(self.parent(chain), row(*tokens)) == expected

    @invariant()
    def agrees(self):
        self.index.check()
        assert len(self.index) == len(self.model)


PrefixMachine.TestCase.settings = settings(stateful_step_count=40)
TestPrefixMachine = PrefixMachine.TestCase
