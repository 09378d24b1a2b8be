"""Verifies that pool, index and table tell the same story.

Each takes time proportional to the pool; they are for tests and for runtime
checks, not for serving.
"""

from collections import Counter

import numpy as np
import numpy.typing as npt

from kvcache.core.pool import PagePool
from kvcache.core.prefix import PrefixIndex
from kvcache.core.table import PageTable


def check_references(pool: PagePool, table: PageTable) -> None:
    """Verifies that each page has one reference per row that holds it.

    Raises:
        AssertionError: If it is not so.
    """
    refs: Counter[int] = Counter()
    for seq in range(len(table)):
        pages = table.pages(seq).tolist()
        assert len(set(pages)) == len(pages), f"{seq} holds a page twice"
        refs.update(pages)
    for page in range(len(pool)):
        count = pool.ref_count(page)
        assert count == refs[page], (
            f"page {page} has {count} references, {refs[page]} rows hold it"
        )
    assert pool.num_free + len(refs) == len(pool), (
        f"{pool.num_free} free and {len(refs)} held of {len(pool)} pages"
    )


def check_prefixes(
    pool: PagePool,
    index: PrefixIndex,
    table: PageTable,
    committed: npt.NDArray[np.int64],  # [num_sequences], in pages
) -> None:
    """Verifies that rows, index and eviction order agree.

    What a sequence has committed is one chain of the index, what it has not is
    unknown there; a free indexed page is cached, and goes before the page that
    it follows.

    Raises:
        AssertionError: If it is not so.
    """
    parents = index.parents()
    assert len(parents) == len(index), "an indexed page follows a lost one"
    for seq, num_committed in enumerate(committed.tolist()):
        pages = table.pages(seq).tolist()
        chain = [None, *pages[:num_committed]]
        for column, page in enumerate(pages[:num_committed]):
            assert page in index, f"committed page {page} is not indexed"
            assert parents[page] == chain[column], (
                f"page {page} follows {parents[page]} in the index and "
                f"{chain[column]} in sequence {seq}"
            )
        strays = [page for page in pages[num_committed:] if page in index]
        assert not strays, f"uncommitted pages {strays} are indexed"
    _check_order(pool, parents)


def _check_order(pool: PagePool, parents: dict[int, int | None]) -> None:
    order = {page: place for place, page in enumerate(pool.eviction_order())}
    for page, parent in parents.items():
        if parent in order:
            assert page in order, f"page {page} is held, {parent} is free"
            assert order[page] < order[parent], (
                f"page {parent} goes before page {page}, which follows it"
            )
    free = sum(page in order for page in parents)
    assert free == pool.num_cached, (
        f"{pool.num_cached} free pages are cached, {free} are indexed"
    )
