"""How many blocks are chosen, and which."""

from typing import Any

import numpy as np
import pytest

from kvcache.compiler import indexer
from kvcache.compiler.numpy_backend import chosen_count, chosen_places


def budget(**given: Any) -> Any:
    ctx = indexer.Context()
    ctx.topk_val, ctx.topk_ratio = given.get("val", 0), given.get("ratio", 0.0)
    ctx.block_reserved_bos = given.get("bos", 1)
    ctx.block_reserved_eos = given.get("eos", 1)
    return ctx


@pytest.mark.parametrize(
    ("blocks", "given", "wanted"),
    [
        (0, {"val": 9}, 0),
        (1, {}, 1),
        (10, {}, 2),
        (10, {"val": 3, "bos": 2}, 6),
        (10, {"ratio": 0.5}, 5),
        (10, {"ratio": 0.29}, 2),
        (100, {"ratio": 0.29}, 29),  # in doubles 28.999...
        (10, {"ratio": 1.0}, 10),
        (3, {"val": 9}, 3),
    ],
)
def test_count_of_chosen_blocks(
    blocks: int, given: dict[str, Any], wanted: int
) -> None:
    assert chosen_count(blocks, budget(**given)) == wanted


@pytest.mark.parametrize(
    ("scores", "given", "wanted"),
    [
        ([9, 1, 3, 2, 1], {"val": 1}, [0, 2, 5]),
        ([0, 7, 7, 7, 0], {"val": 2}, [0, 1, 2, 5]),
        ([0, np.nan, -np.inf, -9, 0], {"val": 2}, [0, 3, 4, 5]),
        ([0, np.nan, -np.inf, np.nan, -np.inf], {"val": 2}, [0, 1, 2, 5]),
        ([0, 1, 2, 3, 4], {"val": 1, "bos": 2, "eos": 2}, [0, 1, 3, 4, 5]),
        ([0, 1, 2, 3, 4], {"bos": 9}, [0, 1, 2, 3, 4, 5]),
        ([], {"val": 4}, [0]),
    ],
)
def test_blocks_are_chosen_by_score_then_place(
    scores: list[float], given: dict[str, Any], wanted: list[int]
) -> None:
    tail = np.array(scores, np.float32)
    got = chosen_places(tail, len(scores) + 1, budget(**given))
    assert got.tolist() == wanted
