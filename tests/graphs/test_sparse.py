"""Choosing blocks, and attending to them: the kernels against their meaning."""

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


def test_many_blocks_are_chosen_from(many_kernels: SparseKernels) -> None:
    page_size = many_kernels.case.configuration.page_size
    for tokens in (32_000, 140_000):
        batch = Batch(lengths=[(tokens, 1), (3000, 1)], page_size=page_size)
        for kind in ("normal", "ties", "strange"):
            check_choice(many_kernels, batch, kind)


@given(st.data())
@settings(max_examples=20)
def test_ops_equal_reference(
    sparse_kernels: SparseKernels, data: st.DataObject
) -> None:
    batch = data.draw(batches(sparse_kernels.case, longest_new=20))
    check_choice(sparse_kernels, batch, data.draw(st.sampled_from(SCORES)))
    check_attention(sparse_kernels, batch)
