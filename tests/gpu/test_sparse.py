"""Choosing blocks, and attending to them, on a GPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import REGIMES, Batch, regimes
from kernels.sparse import (
    SCORES,
    SparseKernels,
    check_attention,
    check_choice,
)
from kernels.sparse_batches import (
    batches,
    edges,
    long,
    mixed,
    single,
    uneven,
)

OF_ALL_KINDS = (edges, mixed, long)


@pytest.mark.parametrize("regime", REGIMES)
def test_ops_equal_reference_at_the_edges_of_pages(
    sparse_kernels: SparseKernels, regime: str
) -> None:
    page_size = sparse_kernels.case.configuration.page_size
    batch = regimes(page_size)[regime]
    check_choice(sparse_kernels, batch, "ties")
    check_attention(sparse_kernels, batch)
    check_attention(sparse_kernels, single(batch))


@pytest.mark.parametrize("kind", SCORES)
def test_choice_equals_reference_whatever_the_scores_are(
    sparse_kernels: SparseKernels, kind: str
) -> None:
    for of_kind in OF_ALL_KINDS:
        check_choice(sparse_kernels, of_kind(sparse_kernels.case), kind)


@pytest.mark.parametrize("ratio", [0, 0.5, 1, -1, np.nan, np.inf])
def test_any_ratio_gives_a_choice(
    sparse_kernels: SparseKernels, ratio: float
) -> None:
    batch = edges(sparse_kernels.case)
    ratios = np.full(len(batch.lengths), ratio)
    check_choice(sparse_kernels, batch, "normal", ratios)


def test_attention_equals_reference_at_the_edges_of_blocks(
    sparse_kernels: SparseKernels,
) -> None:
    for of_kind in OF_ALL_KINDS:
        check_attention(sparse_kernels, of_kind(sparse_kernels.case))


def test_all_blocks_give_dense_attention(sparse_kernels: SparseKernels) -> None:
    for of_kind in OF_ALL_KINDS:
        batch = of_kind(sparse_kernels.case)
        check_attention(sparse_kernels, batch, ratio=1)


@pytest.mark.parametrize("seed", [0, 1])
def test_sequences_are_split_over_many_blocks_of_threads(
    sparse_kernels: SparseKernels, seed: int
) -> None:
    batch = uneven(sparse_kernels.case, seed)
    check_attention(sparse_kernels, batch)
    # The counters are as they were: the next call finds its parts too.
    check_attention(sparse_kernels, batch, ratio=1)


MANY = {
    "few_threads": 16 * 2047,
    "many_threads": 16 * 2049,
    "shared_memory_is_full": 16 * 49_154,
    "beyond_shared_memory": 16 * 50_001,
    "most": 16 * 2**20 - 1,
}
"""Tokens in blocks of 16: what the choice takes ways of its own for."""


@pytest.mark.parametrize("tokens", MANY.values(), ids=MANY)
@pytest.mark.parametrize("kind", ["normal", "ties", "strange", "close"])
def test_many_blocks_are_chosen_from(
    many_kernels: SparseKernels, tokens: int, kind: str
) -> None:
    page_size = many_kernels.case.configuration.page_size
    batch = Batch(lengths=[(tokens, 1), (3000, 1)], page_size=page_size)
    check_choice(many_kernels, batch, kind)


@given(st.data())
@settings(max_examples=40)
def test_ops_equal_reference(
    sparse_kernels: SparseKernels, data: st.DataObject
) -> None:
    batch = data.draw(batches(sparse_kernels.case, longest_new=40))
    check_choice(sparse_kernels, batch, data.draw(st.sampled_from(SCORES)))
    check_attention(sparse_kernels, batch)
    check_attention(sparse_kernels, single(batch))
