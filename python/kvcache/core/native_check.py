"""Verifies the Mojo core's memory; for tests and runtime checks, slow."""

from collections import Counter
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcache.core.native_rows import RowMemory, copied
from kvcache.core.values import DEFAULT_PRIORITY

_PAGE = np.dtype(
    [
        ("state", "u4"),
        ("before", "u4"),
        ("behind", "u4"),
        ("parent", "u4"),
        ("child", "u4"),
        ("elder", "u4"),
        ("younger", "u4"),
        ("bucket", "u4"),
        ("digest", "u8", 2),
        ("head", "u4"),
        ("depth", "u4"),
        ("expires", "f8"),
    ]
)
"""A page, as `page.mojo` has it."""

_ROOT = 1 << 31
_INDEXED = 1 << 24
_REFERENCES = _INDEXED - 1
_PRIORITY_SHIFT = 25
_NUM_PRIORITIES = 101


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """One memory's pages and lists."""

    first: int
    size: int
    num_touched: int
    blank_front: int
    fronts: npt.NDArray[np.uint32]

    def __contains__(self, page: int) -> bool:
        return self.first <= page < self.first + self.size


@dataclass(frozen=True, slots=True, eq=False)
class _Memory:
    """A copy of a core's books."""

    pages: npt.NDArray[Any]
    tokens: npt.NDArray[np.int32]
    pools: tuple[_Pool, _Pool]

    def references(self, page: int) -> int:
        return int(self.pages["state"][page]) & _REFERENCES

    def is_indexed(self, page: int) -> bool:
        return bool(self.pages["state"][page] & _INDEXED)

    def priority(self, page: int) -> int:
        return int(self.pages["state"][page]) >> _PRIORITY_SHIFT

    def expires(self, page: int) -> float:
        return float(self.pages["expires"][page])

    def parent(self, page: int) -> int:
        """Returns the page before a page; -1 behind a namespace."""
        link = int(self.pages["parent"][page])
        return -1 if link & _ROOT else link - 1


def check_memory(
    module: ModuleType,
    address: int,
    rows: RowMemory,
    *,
    num_pages: int,
    page_size: int,
    num_sequences: int,
) -> None:
    """Verifies every invariant of a core.

    Raises:
        AssertionError: If one is broken.
    """
    memory = _read(module, address, num_pages, page_size)
    refs: Counter[int] = Counter()
    for seq in range(num_sequences):
        module.look_at(address, seq)
        pages, committed = rows.found().tolist(), int(rows.numbers[10])
        assert len(set(pages)) == len(pages), f"{seq} holds a page twice"
        refs.update(pages)
        _check_row(memory, pages, committed)
    cached = {p: n for pool in memory.pools for p, n in _cached(memory, pool)}
    _check_states(memory, refs, set(cached))
    _check_tree(memory, cached)


def free_order(
    module: ModuleType, address: int, num_pages: int, page_size: int
) -> list[int]:
    """Returns the device's free pages, first to be handed out first."""
    memory = _read(module, address, num_pages, page_size)
    device = memory.pools[0]
    return [
        *_blank(memory, device),
        *(page for page, _ in _cached(memory, device)),
    ]


def _read(
    module: ModuleType, address: int, num_pages: int, page_size: int
) -> _Memory:
    out = np.zeros(9, np.int64)
    module.describe(address, out.ctypes.data)
    (pages, tokens, *lists, total) = out.tolist()
    front, host_front, blank, host_blank, touched, host_touched = lists

    fronts = copied(front, _NUM_PRIORITIES, np.uint32)
    host_fronts = copied(host_front, _NUM_PRIORITIES, np.uint32)
    num_host_pages = total - num_pages
    device = _Pool(0, num_pages, touched, blank, fronts)
    host = _Pool(
        num_pages, num_host_pages, host_touched, host_blank, host_fronts
    )
    return _Memory(
        copied(pages, total, _PAGE),
        copied(tokens, total * page_size, np.int32).reshape(total, page_size),
        (device, host),
    )


def _check_row(memory: _Memory, pages: list[int], committed: int) -> None:
    """Verifies that what a row has committed is one chain of the index."""
    assert committed <= len(pages), f"{committed} of {len(pages)} committed"
    before = -1
    for page in pages[:committed]:
        assert memory.is_indexed(page), f"committed page {page} is not indexed"
        assert memory.parent(page) == before, (
            f"page {page} follows {memory.parent(page)} in the index and "
            f"{before} in its row"
        )
        before = page


def _cached(memory: _Memory, pool: _Pool) -> list[tuple[int, int]]:
    """Walks a pool's lists; returns its pages with their places."""
    places: list[tuple[int, int]] = []
    for priority, front in enumerate(pool.fronts.tolist()):
        link, before = front, 0
        while link:
            page = link - 1
            assert page in pool, f"page {page} is in another pool's list"
            assert memory.priority(page) == priority, (
                f"page {page} of priority {memory.priority(page)} is in list "
                f"{priority}"
            )
            assert int(memory.pages["before"][page]) == before, (
                f"page {page} does not know the page before it"
            )
            places.append((page, len(places)))
            assert len(places) <= pool.size, "a list goes round"
            before, link = link, int(memory.pages["behind"][page])
    return places


def _check_states(
    memory: _Memory, refs: Counter[int], cached: set[int]
) -> None:
    """Verifies that each page is held, blank or cached, and only one."""
    for pool in memory.pools:
        blank = set(_blank(memory, pool))
        for page in range(pool.first, pool.first + pool.size):
            count = memory.references(page)
            assert count == refs[page], (
                f"page {page} has {count} references, {refs[page]} rows hold it"
            )
            states = (count > 0) + (page in blank) + (page in cached)
            assert states == 1, f"page {page} is in {states} states"
            if not count:
                assert memory.is_indexed(page) == (page in cached), (
                    f"free page {page} is indexed: {memory.is_indexed(page)}"
                )


def _blank(memory: _Memory, pool: _Pool) -> list[int]:
    """Walks a pool's blank pages; returns them, oldest first."""
    end = pool.first + pool.num_touched
    blank, link = list(range(end, pool.first + pool.size)), pool.blank_front
    for page in range(pool.first, end):
        if memory.references(page) or memory.is_indexed(page):
            continue
        assert link, "a blank page is in no list"
        blank.append(link - 1)
        link = int(memory.pages["behind"][link - 1])
    return blank


def _check_tree(memory: _Memory, cached: dict[int, int]) -> None:
    """Verifies what an indexed page and the one it follows say."""
    _check_buckets(memory)
    known = set()
    for page in np.flatnonzero(memory.pages["state"] & _INDEXED).tolist():
        content = (
            int(memory.pages["parent"][page]),
            memory.tokens[page].tobytes(),
        )
        assert content not in known, f"page {page} holds what another holds"
        known.add(content)
        assert (memory.expires(page) > 0) == (
            memory.priority(page) > DEFAULT_PRIORITY
        ), f"page {page} has an end and no higher priority, or none"
        parent = memory.parent(page)
        if parent >= 0:
            _check_below(memory, page, parent, cached)


def _check_buckets(memory: _Memory) -> None:
    """Verifies that each indexed page is in one hash bucket, and no other."""
    found = []
    for head in memory.pages["head"][memory.pages["head"] > 0].tolist():
        page = head - 1
        while page >= 0:
            found.append(page)
            assert len(found) <= len(memory.pages), "a bucket has no end"
            page = int(memory.pages["bucket"][page]) - 1
    indexed = np.flatnonzero(memory.pages["state"] & _INDEXED).tolist()
    assert sorted(found) == indexed, (
        f"pages {indexed} are indexed, {sorted(found)} are in buckets"
    )


def _check_below(
    memory: _Memory, page: int, parent: int, cached: dict[int, int]
) -> None:
    assert memory.is_indexed(parent), f"page {page} follows a lost page"
    assert memory.priority(parent) >= memory.priority(page), (
        f"page {page} is worth more than page {parent} before it"
    )
    assert memory.expires(parent) >= memory.expires(page), (
        f"page {page} is kept longer than page {parent} before it"
    )
    assert memory.references(parent) >= memory.references(page), (
        f"page {page} is held more often than page {parent} before it"
    )
    device, host = memory.pools
    assert not (parent in host and page in device), (
        f"page {page} is on the device, page {parent} before it is not"
    )
    both = (page in device) == (parent in device)
    if (
        both
        and memory.priority(page) == memory.priority(parent)
        and (parent in cached)
    ):
        assert cached[page] < cached[parent], (
            f"page {parent} goes before page {page}, which follows it"
        )
