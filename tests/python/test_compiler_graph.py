"""Which operators of a recording become which kernels, and in which order."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler_cases import (
    cache_context,
    drawn,
    drawn_fields,
    fields_for,
    runner,
)
from kvcache.compiler import cache, indexer
from kvcache.compiler.graph import program_of
from kvcache.compiler.numpy_backend import run_cache
from kvcache.compiler.program import Program, Schedule, Side
from kvcache.compiler.vop import vOp
from kvcache.compiler.vtensor import FORMAT, vTensor

LOC = np.empty(0, np.int64)


class Work(vOp):
    """An operator that only stands in lists."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule


def lists(ops: list[tuple[list[int], int, Schedule]], names: Any) -> Any:
    count = 1 + max([*names, *(t for i, o, _ in ops for t in (*i, o))])
    makers: list[int | None] = [None] * count
    for op, (_, made, _) in enumerate(ops):
        makers[made] = op
    return SimpleNamespace(
        side=Side.CACHE,
        block_size=16,
        tensor_list=[
            vTensor((0, 1, 1), _format=FORMAT.RAGGED, tensor_id=i)
            for i in range(count)
        ],
        op_list=[Work(schedule) for *_, schedule in ops],
        output_tensor_to_op_list=makers,
        op_to_input_tensor_list=[read for read, *_ in ops],
        op_to_output_tensor_list=[[made] for _, made, _ in ops],
        tensor_id_to_tensor_name_map=names,
    )


W, S = Schedule.W, Schedule.S


def shape_of(program: Program) -> list[list[int]]:
    return [[node.op_id for node in k.nodes] for k in program.kernels]


def test_what_the_caller_named_is_stored_though_it_is_read() -> None:
    ctx = lists([([0], 1, W), ([1], 2, W)], {0: "k", 1: "cache['a']"})
    (kernel,) = program_of(ctx).kernels
    assert kernel.stores == (1, 2)
    assert kernel.reads == (0,)
    assert program_of(ctx).names == {0: "k", 1: "a"}


def test_a_named_tensor_is_stored_also_under_other_roots() -> None:
    ctx = lists([([0], 1, W), ([1], 2, W), ([0], 3, W)], {0: "k", 1: "a"})
    program = program_of(ctx, roots=[2])
    assert shape_of(program) == [[0, 1]]
    assert program.kernels[0].stores == (1, 2)
    assert program.written == (1,)
    assert program.intermediates == (2,)


def test_roots_may_be_tensors() -> None:
    ctx = lists([([0], 1, W), ([0], 2, W)], {0: "k"})
    assert shape_of(program_of(ctx, [ctx.tensor_list[2]])) == [[1]]


def test_a_named_tensor_is_made_though_its_reader_is_replaced() -> None:
    ops = [([0], 1, W), ([1], 2, W), ([0], 2, W)]
    (kernel,) = program_of(lists(ops, {0: "k", 1: "a", 2: "b"})).kernels
    assert [node.op_id for node in kernel.nodes] == [0, 2]
    assert kernel.stores == (1, 2)


def test_a_result_that_is_replaced_unread_is_left_out() -> None:
    ctx = lists([([0], 1, W), ([0], 1, W), ([1], 2, W)], {0: "k", 1: "a"})
    assert shape_of(program_of(ctx)) == [[1, 2]]


@pytest.mark.parametrize("environment", ["1", "true"])
def test_fusion_is_switched_off(
    environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCACHE_DISABLE_FUSION", environment)
    ctx = lists([([0], 1, W), ([1], 2, W)], {0: "k"})
    one, other = program_of(ctx).kernels
    assert (one.stores, other.reads, other.stores) == ((1,), (1,), (2,))


def test_standing_alone_is_never_fused() -> None:
    ops = [([0], 1, W), ([1], 2, S), ([2], 3, S), ([1, 3], 4, W)]
    program = program_of(lists(ops, {0: "k"}))
    assert shape_of(program) == [[0], [1], [2], [3]]
    assert [k.schedule for k in program.kernels] == [W, S, S, W]


@pytest.mark.parametrize(
    ("ops", "roots", "message"),
    [
        ([], None, "No final output tensors found"),
        ([([0], 1, W)], [], "No final output tensors found"),
        ([([0], 1, W)], [0], "wanted roots that an operator makes, got"),
        ([([0], 1, W)], [7], "wanted roots that an operator makes, got"),
        ([([0, 2], 1, W), ([1], 2, W)], [2], "Cycle detected in subgraph DAG"),
        ([([1], 2, W), ([0], 1, W)], None, "to be read behind operator 1"),
    ],
)
def test_recordings_that_make_no_sense(
    ops: Any, roots: Any, message: str
) -> None:
    names = {0: "k"} | ({1: "a"} if "behind" in message else {})
    with pytest.raises(RuntimeError, match=message):
        program_of(lists(ops, names), roots)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op_list": []}, "wanted 0 entries in op_to_input_tensor_list, got 1"),
        ({"op_to_output_tensor_list": [[1, 0]]}, "one result of operator 0"),
        ({"op_to_input_tensor_list": [[9]]}, "tensors below 2, got 9"),
        (
            {"output_tensor_to_op_list": [None] * 2},
            "to make tensor 1, got None",
        ),
    ],
)
def test_lists_that_contradict_each_other(change: Any, message: str) -> None:
    ctx = lists([([0], 1, W)], {0: "k"})
    vars(ctx).update(change)
    with pytest.raises(RuntimeError, match=message):
        program_of(ctx)


Step = tuple[int, int, int]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 30), st.integers(0, 30)),
        min_size=1,
        max_size=12,
    ),
    st.data(),
)
def test_fusing_changes_no_number(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[Step],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fusing"
    ctx = cache_context(folder, "numpy")
    tiles = ((4, 6),) * 4
    made, free = fields_for(ctx, tiles)[:2], fields_for(ctx, ())
    free = [t for t in ctx.tensor_list if t not in made]
    for kind, one, other in steps:
        x, y = made[one % len(made)], made[other % len(made)]
        output = free.pop() if free and data.draw(st.booleans()) else None
        made.append(called(kind, x, y, output, ctx))
    pools = []
    for disabled in ("0", "1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KVCACHE_DISABLE_FUSION", disabled)
            pool = drawn_fields(tiles)
            runner(ctx).forward(pool, np.array([15, 47]), ctx)
            pools.append(pool)
            program = program_of(ctx)
    for name, field in pools[0].items():
        np.testing.assert_array_equal(field, pools[1][name])
    rows = [0, 2, 4, 6]
    start = {n: f[rows] for n, f in drawn_fields(tiles).items()}
    for name, field in run_cache(program, start).items():
        np.testing.assert_array_equal(pools[0][name][rows], field)


def called(
    kind: int, x: vTensor, y: vTensor, output: vTensor | None, ctx: Any
) -> vTensor:
    binary = [cache.Add(0.5, 0.25), cache.Maximum(), cache.Minimum()]
    unary = [cache.Relu(), cache.Abs(beta=0.5), cache.Add_Mul(0.1, -0.5)]
    if kind < 3:
        return binary[kind](x, y, output, loc=LOC, ctx=ctx)
    return unary[kind - 3](x, output, loc=LOC, ctx=ctx)


@pytest.mark.parametrize("disabled", ["0", "1"])
def test_a_reader_of_a_field_reads_what_was_just_written(
    disabled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In layout A a token's row becomes the row of the block it completes."""
    monkeypatch.setenv("KVCACHE_DISABLE_FUSION", disabled)
    ctx = cache_context(tmp_path, "numpy")
    k, first, second = fields_for(ctx, ((4, 6), (1, 6), (1, 1)))
    cache.Mean(dim=1)(k, first, loc=LOC, ctx=ctx)
    cache.Sum(dim=2)(first, second, loc=LOC, ctx=ctx)
    assert len(program_of(ctx).kernels) == 1 + int(disabled)
    pool = drawn_fields(((4, 6), (1, 6), (1, 1)))
    old = pool["f2"].copy()
    runner(ctx).forward(pool, np.array([3, 63, 2, 15]), ctx)
    means = pool["f0"].mean(axis=1, keepdims=True)
    rows = [0, 2, 5, 7]
    np.testing.assert_allclose(pool["f1"][rows], means[rows], atol=1e-6)
    sums = means.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(pool["f2"][rows], sums[rows], atol=1e-5)
    others = np.delete(np.arange(len(old)), rows)
    assert np.array_equal(pool["f2"][others], old[others])


def test_equal_recordings_give_equal_programs(tmp_path: Path) -> None:
    programs = []
    for _ in range(2):
        ctx = indexer_recording(tmp_path)
        program = program_of(ctx)
        programs.append(
            [
                ([(n.op.kind, n.inputs, n.output) for n in k.nodes], k.stores)
                for k in program.kernels
            ]
        )
    assert programs[0] == programs[1]
    kinds = [[kind for kind, *_ in nodes] for nodes, _ in programs[0]]
    assert kinds == [["GeMM"], ["Softmax"], ["Max"], ["topK"]]


def indexer_recording(folder: Path) -> Any:
    from compiler_cases import indexer_context

    ctx = indexer_context(folder, "numpy")
    (field,) = fields_for(ctx, ((1, 24),))
    q = ctx.add_tensor((3, 24), "float32", FORMAT.BATCHED, name="q")
    o = ctx.add_tensor((1, 1), "int32", FORMAT.RAGGED, name="o")
    score = indexer.GeMM()(q, field, ctx=ctx)
    indexer.Softmax(scale=0.09)(score, ctx=ctx)
    indexer.topK()(indexer.Max(dim=2)(score, ctx=ctx), o, ctx=ctx)
    return ctx


def test_runs_of_the_oracle_name_what_is_missing(tmp_path: Path) -> None:
    ctx = cache_context(tmp_path, "numpy")
    k, out = fields_for(ctx, ((4, 6), (1, 6)))
    cache.Mean(dim=1)(k, out, loc=LOC, ctx=ctx)
    program = program_of(ctx)
    with pytest.raises(ValueError, match="wanted f0, got f7"):
        run_cache(program, {"f7": drawn((2, 4, 6))})
    with pytest.raises(ValueError, match=r"f0 of shape \(\*, 4, 6\), got"):
        run_cache(program, {"f0": drawn((2, 4, 5))})
