"""Blocks are chosen by torch as they are one request at a time."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import example, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from kvcache.compiler import numpy_backend  # noqa: E402
from kvcache.compiler.triton_backend.arrays import (  # noqa: E402
    checked_loc,
    pointer,
    scratch,
)
from kvcache.compiler.triton_backend.choice import (  # noqa: E402
    choose_blocks,
    segment_of_blocks,
)

SCORES = [0.0, -0.0, 1.0, 2.0, np.nan, np.inf, -np.inf]


def step(sizes: list[int], spare: int, **budget: Any) -> Any:
    count = sum(sizes) + spare
    ctx = SimpleNamespace(
        batch_size=len(sizes),
        num_kv_heads=1,
        dense_kv_indptr=np.cumsum([0, *sizes]),
        dense_kv_indices=np.random.default_rng(0).permutation(count),
        block_reserved_bos=1,
        block_reserved_eos=1,
        topk_val=0,
        topk_ratio=0.0,
    )
    vars(ctx).update(budget)
    ctx.sparse_kv_indptr = numpy_backend.sparse_bounds(ctx)
    return ctx


def on_torch(ctx: Any) -> Any:
    arrays = {
        name: torch.from_numpy(array)
        for name, array in vars(ctx).items()
        if isinstance(array, np.ndarray)
    }
    return SimpleNamespace(**(vars(ctx) | arrays))


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=6),
    st.integers(0, 3),
    st.fixed_dictionaries(
        {
            "topk_val": st.integers(0, 6),
            "topk_ratio": st.floats(0, 1),
            "block_reserved_bos": st.integers(1, 4),
            "block_reserved_eos": st.integers(1, 4),
        }
    ),
    st.integers(0, 2**32),
)
@example([100], 0, {"topk_ratio": 0.29}, 0)
def test_choice_equals_the_slow_one(
    sizes: list[int], spare: int, budget: dict[str, Any], seed: int
) -> None:
    ctx = step(sizes, spare, **budget)
    scores = np.random.default_rng(seed).choice(
        np.array(SCORES, np.float32), (sum(sizes) + spare, 1, 1)
    )
    wanted = np.full(sum(sizes) + 2, -1)
    got = torch.full((sum(sizes) + 2, 1, 1), -1)
    numpy_backend.choose_blocks(scores, wanted, ctx)
    choose_blocks(torch.from_numpy(scores), got, on_torch(ctx))
    assert got.flatten().tolist() == wanted.tolist()


def test_blocks_know_their_request_and_head() -> None:
    ctx = on_torch(step([2, 0, 1], 2))
    assert segment_of_blocks(ctx).tolist() == [0, 0, 2, 3, 3]


def test_pointers_are_of_the_type_and_contiguous() -> None:
    codes = torch.zeros(2, 3, dtype=torch.uint8)
    assert pointer(codes, "float8_e5m2").dtype == torch.float8_e5m2
    assert pointer(codes, "float8_e5m2").data_ptr() == codes.data_ptr()
    with pytest.raises(AssertionError, match="of bfloat16, got float32"):
        pointer(torch.zeros(2), "bfloat16")
    with pytest.raises(AssertionError, match="contiguous"):
        pointer(torch.zeros(2, 3).T, "float32")


@pytest.mark.parametrize("loc", [torch.zeros(2), torch.zeros(1, 2).long()])
def test_loc_is_int64_of_one_axis(loc: Any) -> None:
    with pytest.raises(AssertionError, match="wanted loc of int64"):
        checked_loc(loc)


def test_scratch_grows_and_is_kept() -> None:
    like = torch.zeros(1)
    one = scratch(None, 3, (2, 5), like)
    assert one.shape == (3, 2, 5)
    assert scratch(one, 2, (2, 5), like) is one
    assert scratch(one, 4, (2, 5), like).shape == (4, 2, 5)
