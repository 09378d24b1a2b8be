from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flow_contexts import (
    AFFINE,
    BINARY,
    INTERLEAVES,
    LOC,
    REDUCTIONS,
    SIDES,
    ZERO_BETA,
    cache_context,
    lists,
    new_context,
    tensor,
)
from kvcache.compiler import FORMAT, cache, indexer
from kvcache.compiler.vtensor import vTensor


def makers() -> list[tuple[str, Callable[[], Any], int]]:
    """Each operator on both sides, with its count of operands."""
    made: list[tuple[str, Callable[[], Any], int]] = []
    for side, ops in SIDES.items():
        unary = (*REDUCTIONS, *INTERLEAVES, *ZERO_BETA, *AFFINE)
        made += [(side, getattr(ops, name), 1) for name in unary]
        made += [(side, getattr(ops, name), 2) for name in ("GeMM", *BINARY)]
        made.append((side, lambda ops=ops: ops.MaskSlice(0, 1, 1), 1))
        made.append((side, lambda ops=ops: ops.Reshape(-1, 2, 4), 1))
    made.append(("indexer", indexer.Transpose, 1))
    made.append(("indexer", indexer.Softmax, 1))
    made.append(("indexer", indexer.Normalize, 1))
    made.append(("indexer", indexer.Kron, 2))
    return made


each_op = pytest.mark.parametrize(
    ("side", "make", "arity"),
    makers(),
    ids=lambda x: getattr(x, "__name__", x),
)


def call(op: Any, *operands: Any, ctx: Any) -> Any:
    if ctx.side == "cache":
        return op(*operands, loc=LOC, ctx=ctx)
    return op(*operands, ctx=ctx)


@each_op
def test_wrong_operands_are_refused_and_record_nothing(
    side: str, make: Callable[[], Any], arity: int
) -> None:
    ctx, op = new_context(side), make()
    ragged = FORMAT.RAGGED
    fine = tensor(ctx, 2, 4, rows_are=ragged)
    there = tensor(ctx, 2, 4, rows_are=ragged, device="gpu")
    ids = tensor(ctx, 2, 4, rows_are=ragged, dtype="int32")
    foreign = vTensor((0, 2, 4), _format=ragged, tensor_id=0)
    before = lists(ctx)
    wrong: list[tuple[Any, type[Exception], str]] = [
        (np.zeros((0, 2, 4)), AssertionError, "wanted . to be a vTensor"),
        (None, AssertionError, "wanted . to be a vTensor, got NoneType"),
        (foreign, AssertionError, "a tensor of this recording"),
        (ids, ValueError, "of a float type, got int32"),
    ]
    if arity == 2:
        wrong.append((there, AssertionError, "wanted all tensors on one dev"))
    if side == "cache":
        batched = tensor(ctx, 2, 4, rows_are=FORMAT.BATCHED)
        before = lists(ctx)
        wrong.append((batched, AssertionError, "of format PAGED or RAGGED"))
    for operand, error, text in wrong:
        operands = [fine] * (arity - 1) + [operand]
        with pytest.raises(error, match=f"^{op.kind}: .*{text}"):
            call(op, *operands, ctx=ctx)
    for count in (arity - 1, arity + 2):
        with pytest.raises(TypeError, match=f"^{op.kind}: wanted {arity} op"):
            call(op, *[fine] * count, ctx=ctx)
    assert lists(ctx) == before
    assert op.output_buffer is None
    call(op, *[fine] * arity, ctx=ctx)  # and it can be called still
    assert ctx.op_list == [op]


@each_op
def test_second_call_of_one_operator_is_refused(
    side: str, make: Callable[[], Any], arity: int
) -> None:
    ctx, op = new_context(side), make()
    operands = [tensor(ctx, 2, 4, rows_are=FORMAT.RAGGED)] * arity
    call(op, *operands, ctx=ctx)
    before = lists(ctx)
    with pytest.raises(RuntimeError, match=f"^{op.kind}: wanted an operator"):
        call(op, *operands, ctx=ctx)
    assert lists(ctx) == before
    ctx.reset_graph()
    operands = [tensor(ctx, 2, 4, rows_are=FORMAT.RAGGED)] * arity
    call(op, *operands, ctx=ctx)
    assert ctx.op_list == [op]


@each_op
def test_context_of_the_other_side_is_refused(
    side: str, make: Callable[[], Any], arity: int
) -> None:
    other = new_context("indexer" if side == "cache" else "cache")
    operands = [tensor(other, 2, 4, rows_are=FORMAT.RAGGED)] * arity
    op = make()
    loc = {"loc": LOC} if side == "cache" else {}
    with pytest.raises(AssertionError, match=f"^{op.kind}: .* {side} side"):
        op(*operands, **loc, ctx=other)
    with pytest.raises(RuntimeError, match="Context is not created yet"):
        op(*operands, **loc, ctx=SIDES[side].Context())
    assert other.op_list == []


@pytest.mark.parametrize(
    "loc",
    [
        None,
        [0, 1],
        np.zeros(2, np.int32),
        np.zeros((2, 1), np.int64),
        np.int64(4),
        np.zeros(2, np.uint8),
    ],
    ids=repr,
)
def test_slots_are_int64_of_one_axis(loc: Any) -> None:
    ctx = cache_context()
    keys = tensor(ctx, 16, 8)
    with pytest.raises(AssertionError, match=r"^Mean: wanted loc to be int64"):
        cache.Mean()(keys, loc=loc, ctx=ctx)
    assert ctx.op_list == []


def test_slots_of_torch_are_slots() -> None:
    torch = pytest.importorskip("torch")
    ctx = cache_context()
    keys = tensor(ctx, 16, 8)
    cache.Mean()(keys, loc=torch.empty(0, dtype=torch.int64), ctx=ctx)
    with pytest.raises(AssertionError, match=r"torch\.int32 \(3,\)"):
        cache.Max()(keys, loc=torch.zeros(3, dtype=torch.int32), ctx=ctx)


@pytest.mark.parametrize("by_name", [False, True])
def test_given_output_is_what_the_operator_makes(by_name: bool) -> None:
    ctx = cache_context()
    keys = tensor(ctx, 16, 8, name="cache['k']")
    means = tensor(ctx, 1, 8, name="cache['m']", dtype="float32")
    op = cache.Mean(dim=1)
    if by_name:
        made = op(keys, output=means, loc=LOC, ctx=ctx)
    else:
        made = op(keys, means, loc=LOC, ctx=ctx)
    assert made is means is op.output_buffer
    assert op.output_format is FORMAT.PAGED
    assert len(ctx.tensor_list) == 2
    assert ctx.output_tensor_to_op_list == [None, 0]
    assert ctx.op_to_input_tensor_list == [[0]]
    assert ctx.op_to_output_tensor_list == [[1]]


def test_later_operator_overrides_who_makes_an_output() -> None:
    ctx = cache_context()
    keys = tensor(ctx, 16, 8, name="cache['k']")
    means = tensor(ctx, 1, 8, name="cache['m']")
    cache.Fill(2)(means, loc=LOC, ctx=ctx)
    cache.Mean()(keys, means, loc=LOC, ctx=ctx)
    assert ctx.output_tensor_to_op_list == [None, 1]
    assert ctx.op_to_output_tensor_list == [[1], [1]]
    between = cache.Abs()(keys, loc=LOC, ctx=ctx)
    assert cache.Exp()(keys, between, loc=LOC, ctx=ctx) is between
    assert ctx.output_tensor_to_op_list == [None, 1, 3]


def test_output_that_does_not_fit_is_refused_and_records_nothing() -> None:
    ctx = cache_context()
    keys = tensor(ctx, 1, 8, name="cache['k']")
    values = tensor(ctx, 1, 8, name="cache['v']")
    long = tensor(ctx, 2, 8, name="cache['long']")
    far = tensor(ctx, 1, 8, name="cache['far']", device="gpu")
    batched = tensor(ctx, 1, 8, rows_are=FORMAT.BATCHED)
    foreign = vTensor((0, 1, 8), _format=FORMAT.PAGED, tensor_id=2)
    before = lists(ctx)
    op = cache.Mean()
    for output, text in [
        (np.zeros((0, 1, 8)), "output to be a vTensor, got ndarray"),
        (foreign, "output to be a tensor of this recording"),
        (batched, "output of format PAGED or RAGGED"),
        (long, r"output of shape \(\*, 1, 8\), got \(0, 2, 8\)"),
        (far, "all tensors on one device, got cpu and gpu"),
        (keys, r"output to be a declared field, got cache\['k'\]"),
        (values, r"output to be a declared field, got cache\['v'\]"),
    ]:
        with pytest.raises(AssertionError, match=f"^Mean: wanted {text}"):
            op(keys, output, loc=LOC, ctx=ctx)
    assert lists(ctx) == before


def test_fill_reads_nothing_and_makes_a_field() -> None:
    ctx = cache_context()
    field = tensor(ctx, 3, 8, name="cache['f']")
    op = cache.Fill(alpha=2)
    assert op.attributes == {"alpha": 2.0}
    assert cache.Fill().attributes == {"alpha": 0.0}
    assert op(field, loc=LOC, ctx=ctx) is field
    assert ctx.op_to_input_tensor_list == [[]]
    assert ctx.output_tensor_to_op_list == [0]


def test_fill_makes_fields_only() -> None:
    ctx = cache_context()
    ragged = tensor(ctx, 3, 8, rows_are=FORMAT.RAGGED)
    keys = tensor(ctx, 3, 8, name="cache['k']")
    op = cache.Fill()
    for output in (ragged, None, np.zeros(3)):
        with pytest.raises(
            AssertionError, match=r"^Fill: wanted output of for"
        ):
            op(output, loc=LOC, ctx=ctx)
    with pytest.raises(AssertionError, match=r"^Fill: wanted output of format"):
        op(loc=LOC, ctx=ctx)
    with pytest.raises(AssertionError, match=r"^Fill: wanted output to be a"):
        op(keys, loc=LOC, ctx=ctx)
    assert ctx.op_list == []
