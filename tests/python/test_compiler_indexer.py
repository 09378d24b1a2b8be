from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_contexts import (
    REDUCTIONS,
    check_lists,
    indexer_context,
    lists,
    record,
    tensor,
)
from kvcache.compiler import FORMAT, Schedule, cache, indexer
from kvcache.compiler.vtensor import vTensor

tiles = st.tuples(st.integers(1, 6), st.integers(1, 6))


@pytest.mark.parametrize(
    ("formats", "wanted"),
    [
        ((FORMAT.BATCHED, FORMAT.BATCHED), FORMAT.BATCHED),
        ((FORMAT.BATCHED, FORMAT.PAGED), FORMAT.RAGGED),
        ((FORMAT.RAGGED, FORMAT.BATCHED), FORMAT.RAGGED),
        ((FORMAT.PAGED, FORMAT.PAGED), FORMAT.RAGGED),
    ],
)
@pytest.mark.parametrize("name", ["GeMM", "Multiply", "Kron"])
def test_scores_have_a_row_for_each_block_unless_no_operand_has(
    name: str, formats: tuple[FORMAT, FORMAT], wanted: FORMAT
) -> None:
    ctx = indexer_context()
    x, y = (tensor(ctx, 1, 8, rows_are=each) for each in formats)
    made = getattr(indexer, name)()(x, y, ctx=ctx)
    assert made._format is wanted
    assert made.shape[0] == 0


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_over_blocks_has_one_row_for_a_request(name: str) -> None:
    ctx = indexer_context()
    scores = tensor(ctx, 3, 8, rows_are=FORMAT.RAGGED)
    op = getattr(indexer, name)(dim=0)
    assert op.schedule is Schedule.S
    assert op.attributes == {"dim": 0}
    made = op(scores, ctx=ctx)
    assert (made._format, made.tile) == (FORMAT.BATCHED, (3, 8))
    again = getattr(indexer, name)(dim=0)
    with pytest.raises(AssertionError, match=f"^{name}: wanted x with a row"):
        again(made, ctx=ctx)
    assert len(ctx.tensor_list) == 2
    assert getattr(indexer, name)(dim=2).schedule is Schedule.W
    assert getattr(cache, name)().schedule is Schedule.W


def test_gemv_takes_one_query() -> None:
    assert record("indexer", indexer.GeMV(), (1, 8), (5, 8)).tile == (5, 1)
    with pytest.raises(AssertionError, match=r"^GeMV: wanted x of one row"):
        record("indexer", indexer.GeMV(), (2, 8), (5, 8))
    with pytest.raises(AssertionError, match=r"^GeMV: wanted x and y with the"):
        record("indexer", indexer.GeMV(), (1, 8), (5, 4))


@given(tile=tiles)
def test_transpose_swaps_the_extents(tile: tuple[int, int]) -> None:
    made = record("indexer", indexer.Transpose(), tile)
    assert made.tile == np.zeros(tile).T.shape


@given(x=tiles, y=tiles)
def test_full_kronecker_product_multiplies_the_extents(
    x: tuple[int, int], y: tuple[int, int]
) -> None:
    op = indexer.Kron()
    assert op.attributes == {"kron1": 1, "kron2": 1}
    made = record("indexer", op, x, y)
    assert made.tile == np.kron(np.zeros(x), np.zeros(y)).shape


def test_kronecker_product_of_one_axis_broadcasts_the_other() -> None:
    assert indexer.Kron(dim=1).attributes == {"kron1": 1, "kron2": 0}
    assert indexer.Kron(dim=[2]).attributes == {"kron1": 0, "kron2": 1}
    assert indexer.Kron(dim=(2, 1)).attributes == {"kron1": 1, "kron2": 1}
    made = record("indexer", indexer.Kron(dim=1), (2, 1), (3, 5))
    assert made.tile == (6, 5)
    made = record("indexer", indexer.Kron(dim=2), (4, 2), (4, 3))
    assert made.tile == (4, 6)
    with pytest.raises(
        AssertionError, match=r"^Kron: wanted extents along dim"
    ):
        record("indexer", indexer.Kron(dim=1), (2, 4), (3, 5))


@pytest.mark.parametrize("dim", [0, 3, (), (1, 3), True, 1.0, "1", ("1",)])
def test_kronecker_product_of_no_axis_is_refused(dim: Any) -> None:
    with pytest.raises(AssertionError, match=r"^Kron: wanted dim"):
        indexer.Kron(dim=dim)


@pytest.mark.parametrize("kind", [indexer.Softmax, indexer.Normalize])
def test_operator_in_place_is_what_later_ones_read(kind: Any) -> None:
    ctx = indexer_context()
    q = tensor(ctx, 3, 8, rows_are=FORMAT.BATCHED, name="q")
    field = tensor(ctx, 1, 8, name="cache['m']")
    before = indexer.GeMM()(q, field, ctx=ctx)
    exponent = indexer.Exp()(before, ctx=ctx)
    first, second = kind(), kind()
    assert first.schedule is Schedule.S
    once = first(before, ctx=ctx)
    indexer.Max(dim=2)(before, ctx=ctx)
    twice = second(before, ctx=ctx)
    indexer.Min(dim=2)(once, ctx=ctx)
    assert (once.tile, once._format) == (before.tile, FORMAT.RAGGED)
    check_lists(ctx)
    assert ctx.op_to_input_tensor_list == [
        [q.tensor_id, field.tensor_id],
        [before.tensor_id],
        [before.tensor_id],
        [once.tensor_id],
        [once.tensor_id],
        [twice.tensor_id],
    ]
    assert ctx.op_to_input_tensor_list[1] == [exponent.tensor_id - 1]


@pytest.mark.parametrize("kind", [indexer.Softmax, indexer.Normalize])
@pytest.mark.parametrize("rows_are", [FORMAT.PAGED, FORMAT.BATCHED])
def test_operator_in_place_leaves_what_the_caller_gives(
    kind: Any, rows_are: FORMAT
) -> None:
    ctx = indexer_context()
    given_tensor = tensor(ctx, 1, 8, rows_are=rows_are)
    with pytest.raises(AssertionError, match="wanted x of format RAGGED"):
        kind()(given_tensor, ctx=ctx)
    assert ctx.tensor_id_to_current_id_map == {}


def test_softmax_has_its_scale_and_goes_over_blocks() -> None:
    assert indexer.Softmax().attributes == {"scale": 1.0}
    assert indexer.Softmax(0, 0.09).attributes == {"scale": 0.09}
    assert indexer.Normalize().attributes == {}
    for kind in (indexer.Softmax, indexer.Normalize):
        with pytest.raises(AssertionError, match="wanted dim to be 0, got 1"):
            kind(dim=1)


def test_topk_ends_a_flow() -> None:
    ctx = indexer_context()
    o = tensor(ctx, 1, 1, rows_are=FORMAT.RAGGED, dtype="int32", name="o")
    field = tensor(ctx, 1, 1, name="cache['m']")
    score = indexer.Abs()(field, ctx=ctx)
    op = indexer.topK()
    assert op.schedule is Schedule.S
    assert op.kind == "topK"
    assert op.attributes == {}
    assert op(score, o, ctx=ctx) is o
    check_lists(ctx)
    assert ctx.op_to_input_tensor_list[1] == [score.tensor_id]
    assert ctx.op_to_output_tensor_list[1] == [o.tensor_id]
    with pytest.raises(AssertionError, match=r"^topK: wanted one call in a fl"):
        indexer.topK()(score, o, ctx=ctx)


def test_topk_refuses_what_is_no_score_or_no_output() -> None:
    ctx = indexer_context()
    ragged = FORMAT.RAGGED
    o = tensor(ctx, 1, 1, rows_are=ragged, dtype="int32", name="o")
    score = tensor(ctx, 1, 1, rows_are=ragged)
    wide = tensor(ctx, 1, 3, rows_are=ragged)
    field = tensor(ctx, 1, 1, name="cache['m']")
    far = tensor(ctx, 1, 1, rows_are=ragged, device="gpu")
    foreign = vTensor((0, 1, 1), _format=ragged, tensor_id=0)
    before = lists(ctx)
    op = indexer.topK()
    for first, second, text in [
        (wide, o, r"wanted a score of shape \(\*, 1, 1\), got \(0, 1, 3\)"),
        (field, o, "wanted x of format RAGGED"),
        (score, None, "wanted o to be a vTensor, got NoneType"),
        (score, foreign, "wanted o to be a tensor of this recording"),
        (score, field, r"wanted o, got cache\['m'\]"),
        (score, score, "wanted o, got vTensor"),
        (far, o, "wanted all tensors on one device"),
    ]:
        with pytest.raises(AssertionError, match=f"^topK: {text}"):
            op(first, second, ctx=ctx)
    with pytest.raises(ValueError, match=r"^topK: wanted x of a float type"):
        op(o, o, ctx=ctx)
    with pytest.raises(TypeError, match=r"^topK: wanted a score and o, got 1"):
        op(score, ctx=ctx)
    assert lists(ctx) == before


def test_ids_cannot_be_computed_with() -> None:
    ctx = indexer_context()
    o = tensor(ctx, 1, 1, rows_are=FORMAT.RAGGED, dtype="int32", name="o")
    with pytest.raises(ValueError, match=r"^Abs: wanted x of a float type"):
        indexer.Abs()(o, ctx=ctx)
