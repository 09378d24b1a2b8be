"""The wrappers refuse, while a graph is built, what no kernel could take."""

from collections.abc import Callable
from typing import Any

import pytest
from max.dtype import DType
from max.graph import BufferType, DeviceRef, Graph, TensorType

from kvcache import ops

CPU = DeviceRef.CPU()
GPU = DeviceRef.GPU()
SIZES: dict[str, Any] = {
    "dtype": DType.float32,
    "num_layers": 2,
    "page_size": 16,
    "num_kv_heads": 3,
    "head_dim": 8,
    "device": CPU,
}
TYPES = ops.CacheInputTypes(**SIZES)
HEAD = (3, 8)


def tensor(
    *shape: int | str, dtype: DType = DType.float32
) -> tuple[DType, tuple[int | str, ...]]:
    return dtype, shape


OFFSETS = tensor("batch_size_plus_one", dtype=DType.uint32)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("dtype", DType.int32, "must be one of float32, .* got"),
        ("page_size", 8, r"must be one of \(16, 32, .*\), got 8"),
        ("page_size", 48, r"must be one of \(16, 32, .*\), got 48"),
        ("page_size", 512, r"must be one of \(16, 32, .*\), got 512"),
        ("head_dim", 0, "must be a multiple of 8 from 8 to 256, got 0"),
        ("head_dim", 12, "must be a multiple of 8 from 8 to 256, got 12"),
        ("head_dim", 264, "must be a multiple of 8 from 8 to 256, got 264"),
        ("num_layers", 0, "must be positive, got 0"),
        ("num_kv_heads", -1, "must be positive, got -1"),
    ],
)
def test_cache_types_refuse_what_no_kernel_takes(
    name: str, value: object, wanted: str
) -> None:
    with pytest.raises(ValueError, match=f"{name} {wanted}"):
        ops.CacheInputTypes(**{**SIZES, name: value})


@pytest.mark.parametrize("head_dim", [8, 40, 256])
@pytest.mark.parametrize("page_size", ops.PAGE_SIZES)
def test_cache_types_take_every_page_size(
    page_size: int, head_dim: int
) -> None:
    sizes = {**SIZES, "page_size": page_size, "head_dim": head_dim}
    pool, lengths, table, longest = ops.CacheInputTypes(**sizes)
    assert [int(dim) for dim in pool.shape[1:]] == [
        *(2, 2, page_size),
        *(3, head_dim),
    ]
    assert pool.dtype == DType.float32
    assert {lengths.dtype, table.dtype, longest.dtype} == {DType.uint32}
    assert longest.device == CPU


def test_cache_types_iterate_as_fetch_does() -> None:
    assert list(TYPES) == [
        TYPES.kv_blocks,
        TYPES.cache_lengths,
        TYPES.lookup_table,
        TYPES.max_lengths,
    ]
    assert len(TYPES) == 4


def test_inputs_have_the_sizes_of_their_types() -> None:
    with Graph("sizes", input_types=[*TYPES]) as graph:
        cache = ops.CacheInputs.of(graph.inputs)
        assert cache.sizes == {
            "page_size": 16,
            "num_kv_heads": 3,
            "head_dim": 8,
        }
        assert cache.num_layers == 2
        assert len(cache.tables) == 3
        graph.output()


def test_inputs_are_four() -> None:
    with Graph("four", input_types=[*TYPES]) as graph:
        with pytest.raises(ValueError, match=r"wanted 4 cache inputs.*got 3"):
            ops.CacheInputs.of(graph.inputs[:3])
        graph.output()


def build(
    call: Callable[..., object],
    *tensors: tuple[DType, tuple[int | str, ...]],
    buffers: bool = False,
    **options: Any,
) -> None:
    """Calls a wrapper on graph inputs of the given dtypes and shapes."""
    kinds = [BufferType if buffers else TensorType] * (len(tensors) - 1)
    types = [
        kind(dtype, shape, CPU)
        for kind, (dtype, shape) in zip(
            [*kinds, TensorType], tensors, strict=True
        )
    ]
    with Graph(
        "refused",
        input_types=[*TYPES, *types],
        custom_extensions=[ops.precompiled_package()],
    ) as graph:
        cache = ops.CacheInputs.of(graph.inputs[:4])
        inputs = [
            value.buffer if isinstance(kind, BufferType) else value.tensor
            for kind, value in zip(types, graph.inputs[4:], strict=True)
        ]
        call(cache, *inputs, **options)
        graph.output()


ROWS = tensor("rows", *HEAD)
BAD_ROWS = [
    (tensor("rows", *HEAD, dtype=DType.bfloat16), "must be float32 of 3 axes"),
    (tensor("rows", 24), r"must be float32 of 3 axes, got float32"),
    (tensor("rows", 2, 8), r"must be \[rows, \[3, 8\]\], got"),
    (tensor("rows", 3, 16), r"must be \[rows, \[3, 8\]\], got"),
    (tensor("rows", "heads", 8), r"must be \[rows, \[3, 8\]\], got"),
]
BAD_OFFSETS = [
    (tensor("n", dtype=DType.int64), "must be uint32 of 1 axes, got int64"),
    (tensor("n", 1, dtype=DType.uint32), "must be uint32 of 1 axes, got"),
]


def store(*tensors: Any, layer: int = 0) -> None:
    build(ops.store, *tensors, layer=layer)


def gather(*tensors: Any, layer: int = 0) -> None:
    build(ops.gather, *tensors, buffers=True, layer=layer)


@pytest.mark.parametrize("call", [store, gather])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(("rows", "wanted"), BAD_ROWS)
def test_rows_must_fit_the_pool(
    call: Callable[..., None], place: int, rows: object, wanted: str
) -> None:
    tensors = [ROWS, ROWS, OFFSETS]
    tensors[place] = rows
    with pytest.raises(ValueError, match=("keys ", "values ")[place] + wanted):
        call(*tensors)


@pytest.mark.parametrize(("offsets", "wanted"), BAD_OFFSETS)
def test_offsets_must_be_a_vector_of_uint32(
    offsets: object, wanted: str
) -> None:
    calls: list[Callable[[], None]] = [
        lambda: store(ROWS, ROWS, offsets),
        lambda: gather(ROWS, ROWS, offsets),
        lambda: rope_store(QKV, FREQS, offsets),
        lambda: attention(tensor("rows", 9, 8), offsets),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"row_offsets {wanted}"):
            call()


@pytest.mark.parametrize("layer", [-1, 2, 100])
def test_layer_must_be_in_the_pool(layer: int) -> None:
    calls: list[Callable[[], None]] = [
        lambda: store(ROWS, ROWS, OFFSETS, layer=layer),
        lambda: gather(ROWS, ROWS, OFFSETS, layer=layer),
        lambda: rope_store(QKV, FREQS, OFFSETS, layer=layer),
        lambda: attention(tensor("rows", 9, 8), OFFSETS, layer=layer),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=f"layer must be from 0 to 1, got {layer}"
        ):
            call()


@pytest.mark.parametrize(
    "layer",
    [tensor(dtype=DType.int64), tensor(1, dtype=DType.uint32), tensor()],
)
def test_layer_at_run_time_must_be_a_scalar_of_uint32(layer: Any) -> None:
    def store_to(cache: ops.CacheInputs, *tensors: Any) -> None:
        keys, offsets, layer = tensors
        ops.store(cache, keys, keys, offsets, layer=layer)

    with pytest.raises(ValueError, match="must be a uint32 scalar on the CPU"):
        build(store_to, ROWS, OFFSETS, layer)


@pytest.mark.parametrize("call", [store, gather])
def test_keys_and_values_must_have_the_same_rows(
    call: Callable[..., None],
) -> None:
    with pytest.raises(ValueError, match=r"rows of values .* \(rows\), got n"):
        call(ROWS, tensor("n", *HEAD), OFFSETS)


QKV = tensor("rows", (9 + 2 * 3) * 8)
FREQS = tensor("positions", 8)


def rope_store(*tensors: Any, layer: int = 0) -> None:
    build(ops.rope_store, *tensors, layer=layer)


@pytest.mark.parametrize("width", [15 * 8 + 4, 6 * 8, 5 * 8, 10 * 8, 0])
def test_qkv_must_hold_groups_of_query_heads(width: int) -> None:
    with pytest.raises(
        ValueError,
        match=f"qkv must hold a multiple of 3 query heads.*got {width}",
    ):
        rope_store(tensor("rows", width), FREQS, OFFSETS)


@pytest.mark.parametrize("rope_dim", [0, 3, 10])
def test_rotated_part_must_be_even_and_in_the_head(rope_dim: int) -> None:
    with pytest.raises(
        ValueError, match=rf"at most head_dim \(8\), got {rope_dim}"
    ):
        rope_store(QKV, tensor("positions", rope_dim), OFFSETS)


def test_qkv_and_freqs_must_have_their_dtypes() -> None:
    qkv = tensor("rows", 120, dtype=DType.bfloat16)
    with pytest.raises(ValueError, match="qkv must be float32"):
        rope_store(qkv, FREQS, OFFSETS)
    freqs = tensor("positions", 8, dtype=DType.bfloat16)
    with pytest.raises(ValueError, match="freqs must be float32"):
        rope_store(QKV, freqs, OFFSETS)


def test_sizes_of_heads_must_be_static() -> None:
    with pytest.raises(TypeError, match=r"axis 1 of .* must be static"):
        rope_store(tensor("rows", "width"), FREQS, OFFSETS)
    with pytest.raises(TypeError, match=r"axis 1 of .* must be static"):
        rope_store(QKV, tensor("positions", "rope_dim"), OFFSETS)
    with pytest.raises(TypeError, match=r"axis 1 of .* must be static"):
        attention(tensor("rows", "heads", 8), OFFSETS)
    with pytest.raises(ValueError, match="wanted more than 1 axes"):
        attention(tensor("rows"), OFFSETS)


def attention(*tensors: Any, layer: int = 0, **rules: Any) -> None:
    build(ops.attention, *tensors, layer=layer, scale=1.0, **rules)


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ({"window": 0}, "window must be from 1 to .*, got 0"),
        ({"window": 2**32}, "window must be from 1 to .*, got 4294967296"),
        (
            {"window": 4, "sink_tokens": -1},
            "sink_tokens must be from 0 to .*, got -1",
        ),
        ({"sink_tokens": 4}, r"sink_tokens \(4\) want a window, got none"),
        ({"softcap": 0.0}, r"softcap must be positive, got 0\.0"),
        ({"softcap": -1.0}, r"softcap must be positive, got -1\.0"),
        ({"softcap": float("inf")}, "softcap must be positive, got inf"),
        ({"softcap": float("nan")}, "softcap must be positive, got nan"),
    ],
)
def test_rules_must_be_in_their_range(
    rules: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(ValueError, match=wanted):
        attention(tensor("rows", 9, 8), OFFSETS, **rules)


@pytest.mark.parametrize(
    "sinks",
    [tensor(3), tensor(1, 9), tensor("heads"), tensor(9, dtype=DType.bfloat16)],
)
def test_sinks_must_be_one_logit_for_each_query_head(sinks: Any) -> None:
    def attend(cache: ops.CacheInputs, *tensors: Any) -> None:
        queries, sinks, offsets = tensors
        ops.attention(cache, queries, offsets, layer=0, scale=1.0, sinks=sinks)

    with pytest.raises(ValueError, match=r"sinks must be float32 \[9\], got"):
        build(attend, tensor("rows", 9, 8), sinks, OFFSETS)


@pytest.mark.parametrize("heads", [0, 2, 4, 10])
def test_query_heads_must_share_key_value_heads_evenly(heads: int) -> None:
    with pytest.raises(
        ValueError,
        match=f"queries must have a multiple of 3 heads, got {heads}",
    ):
        attention(tensor("rows", heads, 8), OFFSETS)


@pytest.mark.parametrize(
    "queries",
    [
        tensor("rows", 9, 16),
        tensor("rows", 9),
        tensor("rows", 9, 8, dtype=DType.bfloat16),
    ],
)
def test_queries_must_fit_the_pool(queries: Any) -> None:
    with pytest.raises(ValueError, match="queries must be"):
        attention(queries, OFFSETS)


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        (tensor("pairs", 2, dtype=DType.int32), "must be uint32 of 2 axes"),
        (tensor("pairs", dtype=DType.uint32), "must be uint32 of 2 axes"),
        (tensor("pairs", 3, dtype=DType.uint32), r"must be \[rows, \[2\]\]"),
    ],
)
def test_pairs_must_be_pairs(pairs: Any, wanted: str) -> None:
    def copy_pages(cache: ops.CacheInputs, pairs: Any) -> None:
        ops.copy_pages(cache.kv_blocks, pairs)

    with pytest.raises(ValueError, match=f"pairs {wanted}"):
        build(copy_pages, pairs)


@pytest.mark.parametrize(
    ("pages", "host_pages", "device", "wanted"),
    [
        ([DType.int8, 9, 64], [DType.uint8, 9, 64], GPU, "pages must be uint8"),
        ([DType.uint8, 9], [DType.uint8, 9, 64], GPU, "pages must be uint8"),
        ([DType.uint8, 9, 64], [DType.uint8, 9], GPU, "host_pages must be"),
        (
            [DType.uint8, 9, 64],
            [DType.uint8, 9, 32],
            GPU,
            "wanted host_pages of 64 bytes each, got 32",
        ),
        (
            [DType.uint8, 9, 64],
            [DType.uint8, 9, 64],
            CPU,
            "wanted pages on a GPU and host_pages on the CPU, got cpu",
        ),
    ],
)
def test_pages_to_transfer_must_fit(
    pages: Any, host_pages: Any, device: DeviceRef, wanted: str
) -> None:
    types = [
        BufferType(pages[0], pages[1:], device),
        BufferType(host_pages[0], host_pages[1:], CPU),
        TensorType(DType.uint32, ["num_pairs", 2], device),
    ]
    with Graph("transfer", input_types=types) as graph:
        one, other, pairs = graph.inputs
        with pytest.raises(ValueError, match=wanted):
            ops.transfer_pages(
                one.buffer, other.buffer, pairs.tensor, to_host=True
            )
        graph.output()
