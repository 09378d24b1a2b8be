"""Small contexts of both sides of a flow, and tensors in them."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kvcache.compiler import FORMAT, cache, indexer, vTensor

REDUCTIONS = ("Mean", "Max", "Min", "L2Norm", "Sum")
INTERLEAVES = tuple(f"{name}Interleave" for name in REDUCTIONS)
AFFINE = ("Add_Mul", "Abs", "Log", "Exp")
ZERO_BETA = ("Relu", "Silu", "Sigmoid")
WHERE = (
    "WhereEqual",
    "WhereNotEqual",
    "WhereGreater",
    "WhereGreaterEqual",
    "WhereLess",
    "WhereLessEqual",
)
BINARY = ("Maximum", "Minimum", "Multiply", "Add", *WHERE)
SIDES = {"cache": cache, "indexer": indexer}

LOC = np.empty(0, np.int64)
"""The slots of new tokens, as a recording has them."""


@dataclass
class Parent:
    page_size: int = 64
    block_size: int = 16
    num_pages: int = 9
    head_num: int = 2
    head_dim: int = 8
    group_size: int = 3


@dataclass
class Args:
    max_prefill_tokens: int = 32


@dataclass
class Rows:
    size: int = 4


@dataclass
class Runner:
    server_args: Any = field(default_factory=Args)
    req_to_token_pool: Rows = field(default_factory=Rows)


def cache_context(**sizes: int) -> cache.Context:
    return cache.Context().create(replace(Parent(), **sizes), Runner())


def indexer_context(**sizes: int) -> indexer.Context:
    return indexer.Context().create(replace(Parent(), **sizes), Runner())


def new_context(side: str) -> Any:
    return {"cache": cache_context, "indexer": indexer_context}[side]()


def tensor(
    ctx: Any,
    *tile: int,
    rows_are: FORMAT = FORMAT.PAGED,
    dtype: str = "bfloat16",
    name: str | None = None,
    device: str = "cpu",
) -> vTensor:
    rows, columns = tile
    return ctx.add_tensor(
        (rows, columns), dtype, rows_are, name=name, device=device
    )


def lists(ctx: Any) -> tuple[int, int, list[Any], list[Any], list[Any]]:
    """Copies of all that a recording adds to."""
    return (
        len(ctx.tensor_list),
        len(ctx.op_list),
        list(ctx.output_tensor_to_op_list),
        [list(each) for each in ctx.op_to_input_tensor_list],
        [list(each) for each in ctx.op_to_output_tensor_list],
    )


def check_lists(ctx: Any) -> None:
    """What the seed's system promises of a recorded pipeline."""
    assert [each.tensor_id for each in ctx.tensor_list] == list(
        range(len(ctx.tensor_list))
    )
    assert len(ctx.output_tensor_to_op_list) == len(ctx.tensor_list)
    assert len(ctx.op_to_input_tensor_list) == len(ctx.op_list)
    assert len(ctx.op_to_output_tensor_list) == len(ctx.op_list)
    assert len(set(map(id, ctx.op_list))) == len(ctx.op_list)
    for index, (made,) in enumerate(ctx.op_to_output_tensor_list):
        assert ctx.output_tensor_to_op_list[made] is not None
        assert ctx.output_tensor_to_op_list[made] >= index
    for made, maker in enumerate(ctx.output_tensor_to_op_list):
        if maker is None:
            assert made in ctx.tensor_id_to_tensor_name_map
        else:
            assert ctx.op_to_output_tensor_list[maker] == [made]
    for index, read in enumerate(ctx.op_to_input_tensor_list):
        for each in read:
            maker = ctx.output_tensor_to_op_list[each]
            assert maker is None or maker < index


def record(
    side: str, op: Any, *tiles: tuple[int, int], **settings: Any
) -> vTensor:
    """Calls an operator on new tensors of a new context of its side."""
    ctx = new_context(side)
    operands = [
        tensor(ctx, *tile, name=f"cache['{name}']", **settings)
        for tile, name in zip(tiles, "ab", strict=False)
    ]
    if side == "cache":
        result: vTensor = op(*operands, loc=LOC, ctx=ctx)
    else:
        result = op(*operands, ctx=ctx)
    check_lists(ctx)
    assert ctx.op_list == [op]
    assert ctx.op_to_input_tensor_list == [[x.tensor_id for x in operands]]
    assert ctx.op_to_output_tensor_list == [[result.tensor_id]]
    assert ctx.tensor_list[-1] is result is op.output_buffer
    assert op.output_format is result._format is FORMAT.RAGGED
    assert result.dtype == "bfloat16"
    rows = 32 * 2 if side == "cache" else 0
    assert result.shape == (rows, *result.tile)
    return result
