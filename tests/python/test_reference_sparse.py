"""What choosing blocks means, by examples worked by hand."""

import numpy as np
import pytest

from kvcache import reference, reference_sparse

NAN, INF = np.nan, np.inf


def chosen(
    scores: list[float],
    ratio: float,
    *,
    first: int = 1,
    last: int = 1,
    top_k: int = 0,
) -> list[int]:
    return reference_sparse.chosen(
        np.array(scores, np.float32),
        ratio,
        reserved_first=first,
        reserved_last=last,
        top_k=top_k,
    )


@pytest.mark.parametrize(
    ("ratio", "count"),
    [
        (0, 2),
        (0.25, 2),
        (0.5, 4),
        (0.6, 4),
        (0.99, 7),
        (1, 8),
        (3, 8),
        (NAN, 2),
    ],
)
def test_ratio_is_rounded_down_and_reserved_blocks_stay(
    ratio: float, count: int
) -> None:
    assert len(chosen([0.0] * 8, ratio)) == count


def test_highest_scores_are_chosen_in_the_order_of_blocks() -> None:
    assert chosen([0, 5, 1, 9, 2, 0], 0.7) == [0, 1, 3, 5]


def test_equal_scores_go_to_the_earlier_block() -> None:
    assert chosen([0, 1, 2, 1, 1, 2, 0], 0.8) == [0, 1, 2, 5, 6]
    assert chosen([0, -0.0, 0.0, -0.0, 0], 0.6) == [0, 1, 4]


def test_no_number_is_as_minus_infinity() -> None:
    assert chosen([0, NAN, -INF, -1, 0], 0.8) == [0, 1, 3, 4]
    assert chosen([0, -INF, NAN, NAN, 0], 0.6) == [0, 1, 4]


def test_scores_of_reserved_blocks_do_not_count() -> None:
    scores = [NAN, INF, 1, 3, 2, 0, INF, NAN]
    assert chosen(scores, 0.7, first=2, last=2) == [0, 1, 3, 6, 7]


def test_least_number_of_blocks_is_top_k_beside_the_reserved() -> None:
    assert chosen([0, 1, 2, 3, 4, 0], 0, top_k=2) == [0, 3, 4, 5]
    assert chosen([0, 1, 2], 0, first=2, last=2, top_k=1) == [0, 1, 2]


def test_ids_count_blocks_of_pages_and_lengths_their_tokens() -> None:
    ids, lengths = reference_sparse.choose_blocks(
        np.array([[[0, 1, 9, 0, 0, 0]], [[0] * 6], [[0] * 6]], np.float32),
        np.array([0, 1, 3, 3], np.uint32),
        np.array([67, 32, 5], np.uint32),  # 4 blocks and 3 tokens of a fifth
        np.array([[7, 2, 5], [1, 1, 1], [1, 1, 1]], np.uint32),
        np.array([0.6, 1, 1], np.float32),
        page_size=32,
        block_size=16,
        reserved_first=1,
        reserved_last=1,
        top_k=0,
    )
    assert ids == [[[14, 4, 10]], [[]], [[]]]
    assert lengths.tolist() == [16 + 16 + 4, 0, 0]


def test_all_blocks_are_dense_attention() -> None:
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((6, 2, 2, 16, 2, 8))
    queries = rng.standard_normal((4, 4, 8))
    tables = (
        np.array([0, 1, 4], np.uint32),
        np.array([40, 14], np.uint32),
        np.array([[4, 1, 3], [0, 2, 9]], np.uint32),
    )
    sinks = rng.standard_normal(4)
    rules = {"layer": 1, "scale": 0.5, "sinks": sinks, "softcap": 2.0}
    actual = reference_sparse.sparse_attention(
        *(pool, queries, *tables, [[[4, 1, 3]] * 2, [[]] * 2]),
        np.array([41, 0], np.uint32),
        block_size=16,
        **rules,
    )
    expected = reference.attention(pool, queries, *tables, **rules)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
