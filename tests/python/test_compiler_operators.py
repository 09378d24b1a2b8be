import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_contexts import (
    AFFINE,
    BINARY,
    INTERLEAVES,
    REDUCTIONS,
    SIDES,
    ZERO_BETA,
    record,
)
from kvcache.compiler import Schedule, cache

each_side = pytest.mark.parametrize("side", SIDES)


tiles = st.tuples(st.integers(1, 6), st.integers(1, 6))


@each_side
@pytest.mark.parametrize("name", REDUCTIONS)
@given(tile=tiles, dim=st.sampled_from((1, 2)))
def test_reduction_keeps_the_axis_with_extent_1(
    side: str, name: str, tile: tuple[int, int], dim: int
) -> None:
    op = getattr(SIDES[side], name)(dim=dim)
    assert op.attributes == {"dim": dim}
    result = record(side, op, tile)
    assert result.tile == np.zeros(tile).sum(dim - 1, keepdims=True).shape


@each_side
@pytest.mark.parametrize("name", INTERLEAVES)
@given(tile=tiles, dim=st.sampled_from((1, 2)), k=st.integers(1, 7))
def test_interleave_makes_one_of_each_group(
    side: str, name: str, tile: tuple[int, int], dim: int, k: int
) -> None:
    op = getattr(SIDES[side], name)(dim=dim, k=k)
    assert op.attributes == {"dim": dim, "k": k}
    if tile[dim - 1] % k:
        with pytest.raises(AssertionError, match=f"^{name}: wanted an extent"):
            record(side, op, tile)
        return
    kept = [tile[0], tile[1]]
    kept[dim - 1] //= k
    assert record(side, op, tile).tile == tuple(kept)


@each_side
@given(x=tiles, y=tiles)
def test_product_has_rows_of_the_second_operand(
    side: str, x: tuple[int, int], y: tuple[int, int]
) -> None:
    op = SIDES[side].GeMM()
    assert op.attributes == {}
    if x[1] != y[1]:
        with pytest.raises(
            AssertionError, match=r"^GeMM: wanted .* the same K"
        ):
            record(side, op, x, y)
        return
    assert record(side, op, x, y).tile == (np.zeros(y) @ np.zeros(x).T).shape


def test_gemm_puts_its_first_operand_into_columns() -> None:
    assert record("cache", cache.GeMM(), (3, 8), (5, 8)).tile == (5, 3)


@each_side
@pytest.mark.parametrize("name", BINARY)
@given(x=tiles, y=tiles)
def test_binary_broadcasts_as_numpy_does(
    side: str, name: str, x: tuple[int, int], y: tuple[int, int]
) -> None:
    op = getattr(SIDES[side], name)()
    try:
        wanted = np.broadcast_shapes(x, y)
    except ValueError:
        with pytest.raises(AssertionError, match=f"^{name}: wanted extents"):
            record(side, op, x, y)
    else:
        assert record(side, op, x, y).tile == wanted


@each_side
@given(
    tile=tiles, x2=st.integers(1, 36), y2=st.integers(1, 36), fits=st.booleans()
)
def test_reshape_keeps_every_element(
    side: str, tile: tuple[int, int], x2: int, y2: int, fits: bool
) -> None:
    if fits:
        x2 = math.gcd(x2, math.prod(tile))
        y2 = math.prod(tile) // x2
    op = SIDES[side].Reshape(-1, x2, y2)
    assert op.attributes == {"x2": x2, "y2": y2}
    if math.prod(tile) == x2 * y2:
        assert record(side, op, tile).tile == (x2, y2)
        return
    with pytest.raises(AssertionError, match=r"^Reshape: wanted .* elements"):
        record(side, op, tile)


@each_side
@pytest.mark.parametrize("name", ZERO_BETA + AFFINE)
def test_elementwise_keeps_the_tile_and_has_the_seeds_defaults(
    side: str, name: str
) -> None:
    kind = getattr(SIDES[side], name)
    beta = 0.0 if name in ZERO_BETA else 1.0
    assert kind().attributes == {"alpha": 0.0, "beta": beta}
    assert kind(2, -1).attributes == {"alpha": 2.0, "beta": -1.0}
    assert record(side, kind(), (3, 5)).tile == (3, 5)


@pytest.mark.parametrize("name", ["Silu", "Sigmoid"])
def test_docstring_tells_what_the_defaults_give(name: str) -> None:
    from kvcache.compiler.operators import elementwise

    text = getattr(elementwise, name).__doc__
    assert {"Silu": "`x / 2`", "Sigmoid": "0.5"}[name] in text
    assert f"`{name}(beta=-1)`" in text


@each_side
def test_constants_are_attributes(side: str) -> None:
    ops = SIDES[side]
    assert ops.Add().attributes == {"alpha": 1.0, "beta": 1.0}
    assert ops.Add(1, -1).attributes == {"alpha": 1.0, "beta": -1.0}
    assert ops.Multiply().attributes == {}
    assert ops.Mean().attributes == {"dim": 1}
    assert ops.MeanInterleave().attributes == {"dim": 1, "k": 2}
    assert ops.MaskSlice(1, 3, 2).attributes == {
        "start": 1,
        "end": 3,
        "dim": 2,
        "alpha": 1.0,
        "beta": 0.0,
    }
    assert ops.MaskSlice(np.int64(0), 0, 1, -math.inf, 4).attributes == {
        "start": 0,
        "end": 0,
        "dim": 1,
        "alpha": -math.inf,
        "beta": 4.0,
    }


@each_side
def test_mask_lies_inside_its_axis(side: str) -> None:
    ops = SIDES[side]
    assert record(side, ops.MaskSlice(0, 3, 1), (3, 5)).tile == (3, 5)
    assert record(side, ops.MaskSlice(2, 5, 2), (3, 5)).tile == (3, 5)
    with pytest.raises(AssertionError, match=r"^MaskSlice: wanted a range"):
        record(side, ops.MaskSlice(0, 4, 1), (3, 5))


@each_side
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Mean", (3,)),
        ("Mean", (-1,)),
        ("Sum", (True,)),
        ("Max", (1.0,)),
        ("Max", ("1",)),
        ("MeanInterleave", (0,)),
        ("MeanInterleave", (3, 2)),
        ("MaxInterleave", (1, 0)),
        ("MaxInterleave", (1, 1.5)),
        ("MaskSlice", (2, 1, 1)),
        ("MaskSlice", (-1, 1, 1)),
        ("MaskSlice", (0, 1, 0)),
        ("MaskSlice", (0, 1.5, 1)),
        ("Reshape", (0, 1, 1)),
        ("Reshape", (1, 1, 1)),
        ("Reshape", (-1, 0, 4)),
        ("Reshape", (-1, 2.0, 4)),
    ],
)
def test_senseless_constants_are_refused(
    side: str, name: str, arguments: Sequence[Any]
) -> None:
    with pytest.raises(AssertionError, match=f"^{name}: wanted .*, got"):
        getattr(SIDES[side], name)(*arguments)


def test_cache_side_reduces_no_blocks() -> None:
    with pytest.raises(AssertionError, match=r"^Mean: wanted dim to be one of"):
        cache.Mean(dim=0)


@pytest.mark.parametrize("name", ["GeMM", *BINARY, *REDUCTIONS, *AFFINE])
@each_side
def test_operator_of_tiles_is_fusible(side: str, name: str) -> None:
    op = getattr(SIDES[side], name)()
    assert op.schedule is Schedule.W
    assert op.kind == name


@pytest.mark.parametrize(
    "dtype",
    ["bfloat16", "float16", "float32", "float8_e4m3fn", "float8_e5m2", "int8"],
)
@each_side
def test_every_type_of_pools_is_reduced_and_compared(
    side: str, dtype: str
) -> None:
    ops = SIDES[side]
    assert record(side, ops.Mean(), (4, 2), dtype=dtype).tile == (1, 2)
    record(side, ops.WhereLess(), (4, 2), (1, 2), dtype=dtype)
