"""The wrappers refuse what no kernel over quantised pages could take."""

from typing import Any

import pytest
from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, TensorType

from kvcache import ops
from kvcache.errors import InvalidParamsError
from kvcache.quantization import Granularity, Quantization

CPU = DeviceRef.CPU()
HEAD = Quantization(granularity=Granularity.HEAD)
TOKEN = Quantization()
SIZES: dict[str, Any] = {
    "dtype": DType.int8,
    "num_layers": 2,
    "page_size": 16,
    "num_kv_heads": 3,
    "head_dim": 40,
    "device": CPU,
    "quantization": TOKEN,
    "compute_dtype": DType.float32,
}
ROWS = TensorType(DType.float32, ["rows", 3, 40], CPU)
QKV = TensorType(DType.float32, ["rows", (6 + 2 * 3) * 40], CPU)
FREQS = TensorType(DType.float32, ["positions", 40], CPU)
OFFSETS = TensorType(DType.uint32, ["batch_size_plus_one"], CPU)
SCALES = TensorType(DType.float32, [2, 3], CPU)


def types(**changes: Any) -> ops.CacheInputTypes:
    return ops.CacheInputTypes(**{**SIZES, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": DType.uint8}, "dtype must be one of .*int8, got"),
        ({"dtype": DType.float8_e4m3fnuz}, "dtype must be one of .*, got"),
        ({"quantization": None}, "int8 wants a quantization"),
        ({"compute_dtype": None}, "compute_dtype must be one of .*, got None"),
        ({"compute_dtype": DType.int8}, "compute_dtype must be one of .*int8"),
        ({"dtype": DType.float32}, "quantization must be None for float32"),
        (
            {
                "dtype": DType.float32,
                "quantization": None,
                "compute_dtype": DType.bfloat16,
            },
            "compute_dtype must be float32, got",
        ),
    ],
)
def test_types_and_scales_must_fit(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        types(**changes)


def test_groups_must_divide_a_head() -> None:
    with pytest.raises(InvalidParamsError, match=r"one of \[8, 40\] for"):
        types(quantization=Quantization(group_size=16))
    assert types(quantization=Quantization(group_size=8)).kv_scales is not None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_plain_types_have_no_scales(dtype: str) -> None:
    plain = types(dtype=DType[dtype], quantization=None, compute_dtype=None)
    assert plain.kv_scales is None
    assert plain.scales is None
    assert plain.row_dtype == DType[dtype]
    assert len(list(plain)) == len(plain) == 4


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
def test_codes_and_rows_have_types_of_their_own(
    dtype: str, compute: str
) -> None:
    both = types(dtype=DType[dtype], compute_dtype=DType[compute])
    assert both.kv_blocks.dtype == DType[dtype]
    assert both.row_dtype == DType[compute]
    assert len(list(both)) == len(both) == 5
    *_, scales = both
    assert scales.dtype == DType.float32


@pytest.mark.parametrize(
    ("quantization", "shape", "given"),
    [
        (Quantization(granularity=Granularity.TENSOR), (1, 1, 1), [2, 1]),
        (HEAD, (1, 3, 1), [2, 3]),
        (TOKEN, (16, 3, 1), None),
        (Quantization(group_size=8), (16, 3, 5), None),
    ],
)
def test_scales_have_the_shape_of_their_granularity(
    quantization: Quantization,
    shape: tuple[int, int, int],
    given: list[int] | None,
) -> None:
    cache = types(quantization=quantization)
    assert cache.kv_scales is not None
    assert [int(dim) for dim in cache.kv_scales.shape[1:]] == [2, 2, *shape]
    if given is None:
        assert cache.scales is None
    else:
        assert cache.scales is not None
        assert list(cache.scales.shape) == given
    with Graph("granularity", input_types=[*cache]) as graph:
        sizes = ops.CacheInputs.of(graph.inputs).sizes
        graph.output()
    assert sizes["granularity"] == quantization.granularity.number
    assert sizes["group_size"] == 40 // shape[2]


def test_pools_of_8_bits_want_their_scales() -> None:
    with Graph("missing", input_types=[*types()]) as graph:
        with pytest.raises(ValueError, match="a pool of int8 wants scales"):
            ops.CacheInputs.of(graph.inputs[:4])
        graph.output()


def test_plain_pools_want_none() -> None:
    plain = types(dtype=DType.float32, quantization=None, compute_dtype=None)
    scales = types().kv_scales
    assert scales is not None
    with Graph("stray", input_types=[*plain, scales]) as graph:
        with pytest.raises(ValueError, match="of float32 wants no scales"):
            ops.CacheInputs.of(graph.inputs)
        graph.output()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ([4, 2, 2, 16, 3], DType.float32),
        ([4, 2, 2, 16, 3, 1], DType.float16),
        ([4, 2, 3, 16, 3, 1], DType.float32),
        ([4, 1, 2, 16, 3, 1], DType.float32),
        ([4, 2, 2, 8, 3, 1], DType.float32),
        ([4, 2, 2, 16, 1, 1], DType.float32),
        ([4, 2, 2, 16, 3, 3], DType.float32),
        ([4, 2, 2, 16, 3, 10], DType.float32),
        ([4, 2, 2, 1, 3, 5], DType.float32),
    ],
)
def test_scales_of_another_shape_are_refused(
    shape: list[int], dtype: DType
) -> None:
    scales = BufferType(dtype, shape, CPU)
    with Graph("shape", input_types=[*list(types())[:4], scales]) as graph:
        with pytest.raises(ValueError, match=r"kv_scales must be float32"):
            ops.CacheInputs.of(graph.inputs)
        graph.output()


def call(
    op: str, cache: ops.CacheInputTypes, *extra: TensorType, has_scales: bool
) -> None:
    """Builds a store whose last extra input is what it is given as scales."""
    with Graph(
        "given",
        input_types=[*cache, *extra],
        custom_extensions=[ops.precompiled_package()],
    ) as graph:
        inputs = ops.CacheInputs.of(graph.inputs[: len(cache)])
        tensors = [value.tensor for value in graph.inputs[len(cache) :]]
        scales = tensors.pop() if has_scales else None
        getattr(ops, op)(inputs, *tensors, layer=0, scales=scales)
        graph.output()


STORES = pytest.mark.parametrize(
    ("op", "extra"),
    [("store", [ROWS, ROWS, OFFSETS]), ("rope_store", [QKV, FREQS, OFFSETS])],
)


@STORES
def test_scales_are_given_where_tokens_have_none(
    op: str, extra: list[TensorType]
) -> None:
    head = types(quantization=HEAD)
    call(op, head, *extra, SCALES, has_scales=True)
    with pytest.raises(ValueError, match=r"float32 \[2, 3\], got None"):
        call(op, head, *extra, has_scales=False)
    for bad in (
        TensorType(DType.float32, [2, 1], CPU),
        TensorType(DType.float32, [3], CPU),
        TensorType(DType.float16, [2, 3], CPU),
    ):
        with pytest.raises(
            ValueError, match=r"scales must be float32 \[2, 3\]"
        ):
            call(op, head, *extra, bad, has_scales=True)


@STORES
def test_scales_are_not_given_where_tokens_have_their_own(
    op: str, extra: list[TensorType]
) -> None:
    call(op, types(), *extra, has_scales=False)
    with pytest.raises(ValueError, match="the cache is per token"):
        call(op, types(), *extra, SCALES, has_scales=True)
    plain = types(dtype=DType.float32, quantization=None, compute_dtype=None)
    with pytest.raises(ValueError, match="the cache is plain"):
        call(op, plain, *extra, SCALES, has_scales=True)


def test_rows_are_of_a_type_that_is_computed_in() -> None:
    wide = TensorType(DType.float64, ["rows", 3, 40], CPU)
    with pytest.raises(
        ValueError, match=r"keys must be one of float32, .* got"
    ):
        call("store", types(), wide, wide, OFFSETS, has_scales=False)
    half = TensorType(DType.float16, ["rows", 3, 40], CPU)
    with pytest.raises(ValueError, match="values must be float16"):
        call("store", types(), half, ROWS, OFFSETS, has_scales=False)
