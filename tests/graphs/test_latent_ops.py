"""The wrappers refuse what no kernel over pages of latents could take."""

from collections.abc import Callable
from typing import Any

import pytest
from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, TensorType

from kvcache import ops
from kvcache.quantization import Granularity, Quantization

CPU = DeviceRef.CPU()
SIZES: dict[str, Any] = {
    "dtype": DType.bfloat16,
    "num_layers": 2,
    "page_size": 16,
    "num_kv_heads": 1,
    "head_dim": 576,
    "device": CPU,
    "is_mla": True,
}
TENSOR = Quantization(granularity=Granularity.TENSOR)
CODES: dict[str, Any] = {
    "dtype": DType.int8,
    "compute_dtype": DType.float32,
    "quantization": Quantization(group_size=64),
}
LATENTS = ops.CacheInputTypes(**SIZES)
PLAIN = ops.CacheInputTypes(**{**SIZES, "is_mla": False, "head_dim": 64})
OFFSETS = TensorType(DType.uint32, ["batch_size_plus_one"], CPU)


def rows(*inner: int, dtype: DType = DType.bfloat16) -> TensorType:
    return TensorType(dtype, ["rows", *inner], CPU)


def buffer(*inner: int) -> BufferType:
    return BufferType(DType.bfloat16, ["rows", *inner], CPU)


def build(
    call: Callable[..., Any],
    cache: ops.CacheInputTypes,
    *types: TensorType | BufferType,
    **options: Any,
) -> Any:
    """Calls a wrapper on inputs of the given types; returns what it does."""
    with Graph(
        "refused",
        input_types=[*cache, *types, OFFSETS],
        custom_extensions=[ops.precompiled_package()],
    ) as graph:
        inputs = [
            value.buffer if isinstance(kind, BufferType) else value.tensor
            for kind, value in zip(
                [*types, OFFSETS], graph.inputs[len(cache) :], strict=True
            )
        ]
        values = ops.CacheInputs.of(graph.inputs[: len(cache)])
        result = call(values, *inputs, **options)
        graph.output()
    return result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 2}, "num_kv_heads must be 1 for latents, got 2"),
        ({"head_dim": 584}, "multiple of 8 from 8 to 576, got 584"),
        ({"head_dim": 574}, "multiple of 8 from 8 to 576, got 574"),
        (
            {**CODES, "quantization": TENSOR},
            "latents want granularity token, got tensor",
        ),
        (
            {**CODES, "quantization": Quantization()},
            "latents want a group_size of at most 256, got 576",
        ),
        ({"dtype": DType.int8}, "int8 wants a quantization"),
        (
            {"is_mla": False},
            "head_dim must be a multiple of 8 from 8 to 256, got 576",
        ),
    ],
)
def test_cache_types_refuse_what_no_kernel_takes(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ops.CacheInputTypes(**{**SIZES, **changes})


def test_pages_have_one_row_a_token() -> None:
    assert list(LATENTS.kv_blocks.shape)[1:] == [1, 2, 16, 1, 576]
    assert LATENTS.kv_scales is None
    assert len(list(LATENTS)) == len(LATENTS) == 4


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (3, 2, 16, 1, 64),
            r"values \(2\) or of latents \(1\), got 3",
        ),
        ((1, 2, 16, 4, 64), "latents want one head, got 4"),
    ],
)
def test_other_pages_are_refused(shape: tuple[int, ...], message: str) -> None:
    pool = BufferType(DType.float32, ["pages", *shape], CPU)
    with Graph("refused", input_types=[pool, *list(PLAIN)[1:]]) as graph:
        with pytest.raises(ValueError, match=message):
            ops.CacheInputs.of(graph.inputs)
        graph.output()


def test_codes_have_scales_for_each_token() -> None:
    types = ops.CacheInputTypes(**{**SIZES, **CODES})
    assert list(types.kv_blocks.shape)[1:] == [1, 2, 16, 1, 576]
    assert types.kv_scales is not None
    assert list(types.kv_scales.shape)[1:] == [1, 2, 16, 1, 9]
    assert types.scales is None
    assert types.row_dtype == DType.float32
    build(ops.store_latents, types, rows(576, dtype=DType.bfloat16), layer=0)
    output = attention(types, rows(16, 576), value_dim=512)
    assert output.dtype == DType.bfloat16


@pytest.mark.parametrize("shape", [(1, 1, 1), (16, 1, 1), (16, 1, 10)])
def test_other_scales_are_refused(shape: tuple[int, int, int]) -> None:
    blocks = BufferType(DType.int8, LATENTS.kv_blocks.shape, CPU)
    scales = BufferType(DType.float32, ["total_num_pages", 1, 2, *shape], CPU)
    types = [blocks, *list(LATENTS)[1:], scales]
    with Graph("refused", input_types=types) as graph:
        with pytest.raises(ValueError, match="kv_scales must be float32"):
            ops.CacheInputs.of(graph.inputs)
        graph.output()


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (rows(575), r"latents must be \[rows, \[576\]\]"),
        (rows(1, 576), "latents must be bfloat16 of 2 axes"),
        (rows(576, dtype=DType.float32), "latents must be bfloat16 of 2"),
    ],
)
def test_rows_must_fit(latents: TensorType, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(ops.store_latents, LATENTS, latents, layer=0)
    target = BufferType(latents.dtype, latents.shape, CPU)
    with pytest.raises(ValueError, match=message):
        build(ops.gather_latents, LATENTS, target, layer=0)


def test_layers_are_those_of_the_pool() -> None:
    with pytest.raises(ValueError, match="layer must be from 0 to 1, got 2"):
        build(ops.store_latents, LATENTS, rows(576), layer=2)
    with pytest.raises(ValueError, match="layer must be from 0 to 1, got 2"):
        build(ops.gather_latents, LATENTS, buffer(576), layer=2)


@pytest.mark.parametrize(
    ("call", "types", "options"),
    [
        (ops.store, [rows(1, 576), rows(1, 576)], {}),
        (ops.rope_store, [rows(3 * 576), rows(64, dtype=DType.float32)], {}),
        (ops.gather, [buffer(1, 576), buffer(1, 576)], {}),
        (ops.attention_max, [rows(16, 576)], {"scale": 1.0}),
    ],
)
def test_ops_on_values_refuse_latents(
    call: Callable[..., Any], types: list[Any], options: dict[str, Any]
) -> None:
    message = f"{call.__name__} wants pages of keys and values, got latents"
    with pytest.raises(ValueError, match=message):
        build(call, LATENTS, *types, layer=0, **options)


@pytest.mark.parametrize(
    ("call", "kind"),
    [(ops.store_latents, rows(64)), (ops.gather_latents, buffer(64))],
)
def test_ops_on_latents_refuse_values(
    call: Callable[..., Any], kind: TensorType | BufferType
) -> None:
    message = f"{call.__name__} wants pages of latents, got keys and values"
    with pytest.raises(ValueError, match=message):
        build(call, PLAIN, kind, layer=0)


@pytest.mark.parametrize("value_dim", [None, 0, 4, 12, 584])
def test_values_are_leading_parts_of_latents(value_dim: int | None) -> None:
    message = rf"value_dim must be .* head_dim \(576\), got {value_dim}"
    with pytest.raises(ValueError, match=message):
        attention(LATENTS, rows(16, 576), value_dim=value_dim)


def test_other_values_have_a_length_of_their_own() -> None:
    message = r"value_dim \(32\) wants latents, got keys and values"
    with pytest.raises(ValueError, match=message):
        attention(PLAIN, rows(16, 64), value_dim=32)


@pytest.mark.parametrize("value_dim", [8, 512, 576])
def test_results_are_as_long_as_values(value_dim: int) -> None:
    output = attention(LATENTS, rows(128, 576), value_dim=value_dim)
    assert output.dtype == DType.bfloat16
    assert list(output.shape)[1:] == [128, value_dim]


def test_queries_must_be_as_long_as_latents() -> None:
    message = r"queries must be \[rows, \[16, 576\]\]"
    with pytest.raises(ValueError, match=message):
        attention(LATENTS, rows(16, 512), value_dim=512)


def test_the_part_that_is_a_value_does_not_turn() -> None:
    freqs = TensorType(DType.float32, ["rows", 64], CPU)
    shifts = TensorType(DType.uint32, ["shifts", 4], CPU)
    types = [LATENTS.kv_blocks, freqs, shifts]
    with Graph("refused", input_types=types) as graph:
        pool, angles, which = graph.inputs
        with pytest.raises(ValueError, match="begin must be where"):
            ops.rope_shift(pool.buffer, angles.tensor, which.tensor)
        graph.output()


def test_no_workspace_is_wanted() -> None:
    types = ops.CacheInputTypes(**{**SIZES, "device": DeviceRef.GPU()})
    assert list(ops.attention_workspace_type(types, 128).shape) == [1]


def attention(
    cache: ops.CacheInputTypes, queries: TensorType, *, value_dim: int | None
) -> Any:
    return build(
        ops.attention, cache, queries, layer=0, scale=1.0, value_dim=value_dim
    )
