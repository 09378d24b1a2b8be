"""Batches of which blocks are chosen: drawn ones, and those at the edges."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from .batch import Batch
from .sparse_configuration import SparseCase


def edges(case: SparseCase) -> Batch:
    """Returns contexts that end around the edges of blocks and pages."""
    block, page = case.block_size, case.configuration.page_size
    ends = [0, 1, *(n * block for n in range(1, 6)), page, 2 * page, 3 * page]
    lengths = [
        (cached, 1)
        for end in ends
        for cached in sorted({max(0, end - 1), end, end + 1})
    ]
    lengths[3:3] = [(0, 0), (block, 0)]
    return Batch(lengths=lengths, page_size=page, spare_pages=1)


def mixed(case: SparseCase) -> Batch:
    """Returns prompts, single tokens and sequences without any."""
    page, block = case.configuration.page_size, case.block_size
    lengths = [
        *((0, 0), (6 * block + 3, 1), (0, 20), (page + 5, 1), (3, 0)),
        *((2 * page, 17), (9 * block - 1, 1), (7, 2), (0, 1)),
    ]
    return Batch(lengths=lengths, page_size=page, spare_pages=2)


def long(case: SparseCase) -> Batch:
    """Returns a context that cores, and blocks of threads, share."""
    page = case.configuration.page_size
    return Batch(lengths=[(1500 + 2 * page, 1)], page_size=page)


def uneven(case: SparseCase, seed: int) -> Batch:
    """Returns a long context among more short ones than a warp has lanes."""
    rng = np.random.default_rng(seed)
    lengths = [
        (int(cached), int(new))
        for cached, new in zip(
            rng.integers(0, 400, 70), rng.integers(0, 2, 70), strict=True
        )
    ]
    lengths[40:40] = [(8000 + seed, 1), (0, 1), (15, 1), (16, 1)]
    return Batch(
        lengths=lengths, page_size=case.configuration.page_size, seed=seed
    )


def batches(case: SparseCase, *, longest_new: int) -> st.SearchStrategy[Batch]:
    """Draws batches of single new tokens, and of prompts where they may be."""
    block, page = case.block_size, case.configuration.page_size
    ends = st.integers(0, max(2 * page // block, 12)).map(lambda n: n * block)
    cached = st.tuples(ends, st.integers(-1, 1) | st.integers(0, page)).map(
        lambda pair: max(0, sum(pair))
    )
    new = st.sampled_from([1, 1, 1, 0]) | st.integers(0, longest_new)
    return st.builds(
        Batch,
        lengths=st.lists(st.tuples(cached, new), max_size=5),
        page_size=st.just(page),
        seed=st.integers(0, 2**32 - 1),
        spare_pages=st.integers(0, 3),
        spare_columns=st.integers(0, 3),
        shared_columns=st.integers(0, 2),
        stray_is_null=st.booleans(),
        poison=st.sampled_from([np.nan, np.inf]),
    )


def single(batch: Batch) -> Batch:
    """Returns the batch with at most one new token of each sequence."""
    lengths = [(cached, min(new, 1)) for cached, new in batch.lengths]
    return replace(batch, lengths=lengths)
