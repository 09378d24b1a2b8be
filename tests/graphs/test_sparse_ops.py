"""The wrappers refuse, while a graph is built, what no kernel could take."""

from typing import Any

import pytest
from max.dtype import DType
from max.graph import DeviceRef, Graph, TensorType

from kvcache import ops
from kvcache.graphs import choose_blocks_graph, sparse_attention_graph

CPU = DeviceRef.CPU()
SIZES: dict[str, Any] = {
    "dtype": DType.float32,
    "num_layers": 2,
    "page_size": 64,
    "num_kv_heads": 3,
    "head_dim": 8,
    "device": CPU,
}
TYPES = ops.CacheInputTypes(**SIZES)
FLOAT, INDEX = DType.float32, DType.uint32
NUM_BLOCKS = 8
TENSORS: dict[str, tuple[DType, list[int | str]]] = {
    "scores": (FLOAT, ["batch_size", 3, NUM_BLOCKS]),
    "offsets": (INDEX, ["batch_size_plus_one"]),
    "ratios": (FLOAT, ["batch_size"]),
    "queries": (FLOAT, ["total_tokens", 6, 8]),
    "block_ids": (INDEX, ["batch_size", 3, NUM_BLOCKS]),
    "lengths": (INDEX, ["batch_size"]),
    "sinks": (FLOAT, [6]),
}


def build(
    op: str,
    tensors: dict[str, tuple[DType, list[int | str]]] | None = None,
    types: ops.CacheInputTypes = TYPES,
    **options: Any,
) -> None:
    """Builds an op in a graph of blocks of 16 in pages of 64."""
    wanted = {**TENSORS, **(tensors or {})}
    inputs = [TensorType(*kind, CPU) for kind in wanted.values()]
    with Graph(
        "ops",
        input_types=[*types, *inputs],
        custom_extensions=[ops.precompiled_package()],
    ) as graph:
        cache = ops.CacheInputs.of(graph.inputs[: len(types)])
        cache = ops.CacheInputs(
            cache.kv_blocks,
            cache.cache_lengths,
            cache.lookup_table.rebind(["batch_size", 2]),
            cache.max_lengths,
            cache.kv_scales,
        )
        given = {
            name: value.tensor
            for name, value in zip(
                wanted, graph.inputs[len(types) :], strict=True
            )
        }
        options = {"block_size": 16, **options}
        if op == "choose_blocks":
            ops.choose_blocks(
                *(cache, given["scores"], given["offsets"], given["ratios"]),
                **options,
            )
        else:
            ops.sparse_attention(
                *(cache, given["queries"], given["offsets"]),
                ops.ChosenBlocks(given["block_ids"], given["lengths"]),
                sinks=given["sinks"],
                **{"layer": 0, "scale": 1.0, **options},
            )


@pytest.mark.parametrize("op", ["choose_blocks", "sparse_attention"])
def test_ops_take_what_fits(op: str) -> None:
    build(op)


@pytest.mark.parametrize("op", ["choose_blocks", "sparse_attention"])
@pytest.mark.parametrize("block_size", [0, -16, 8, 24, 48, 128])
def test_ops_refuse_blocks_that_do_not_fill_pages(
    op: str, block_size: int
) -> None:
    wanted = (
        r"block_size must be a power of two from 16 to the page_size \(64\),"
        f" got {block_size}"
    )
    with pytest.raises(ValueError, match=wanted):
        build(op, block_size=block_size)


@pytest.mark.parametrize("op", ["choose_blocks", "sparse_attention"])
def test_ops_refuse_latents(op: str) -> None:
    latents = ops.CacheInputTypes(
        **{**SIZES, "num_kv_heads": 1, "is_mla": True}
    )
    with pytest.raises(ValueError, match="wants pages of keys and values"):
        build(op, types=latents)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        *(("reserved_first", -1, 0), ("reserved_last", 0, 1)),
        *(("top_k", -1, 0), ("top_k", 2**20 + 1, 0)),
    ],
)
def test_choice_refuses_counts_out_of_range(
    name: str, value: int, least: int
) -> None:
    wanted = f"{name} must be from {least} to {2**20}, got {value}"
    with pytest.raises(ValueError, match=wanted):
        build("choose_blocks", **{name: value})


@pytest.mark.parametrize(
    ("op", "name", "dtype", "shape"),
    [
        ("choose_blocks", "scores", DType.float16, TENSORS["scores"][1]),
        ("choose_blocks", "scores", FLOAT, ["batch_size", 6, NUM_BLOCKS]),
        ("choose_blocks", "scores", FLOAT, ["batch_size", 3, 2]),
        ("choose_blocks", "ratios", INDEX, ["batch_size"]),
        ("choose_blocks", "ratios", FLOAT, [1]),
        ("sparse_attention", "block_ids", DType.int32, ["batch_size", 3, 8]),
        ("sparse_attention", "block_ids", INDEX, ["batch_size", 8]),
        ("sparse_attention", "lengths", INDEX, ["batch_size_plus_one"]),
        ("sparse_attention", "sinks", FLOAT, [3]),
    ],
)
def test_ops_refuse_tensors_that_do_not_fit(
    op: str, name: str, dtype: DType, shape: list[int | str]
) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*, got"):
        build(op, {name: (dtype, shape)})


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"softcap": 0.0}, "softcap must be positive, got 0"),
        ({"layer": 2}, "layer must be from 0 to 1, got 2"),
    ],
)
def test_attention_refuses_options_out_of_range(
    options: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(ValueError, match=wanted):
        build("sparse_attention", **options)


def test_builders_refuse_what_the_ops_refuse() -> None:
    with pytest.raises(ValueError, match="block_size must be"):
        choose_blocks_graph(TYPES, block_size=40)
    with pytest.raises(ValueError, match="multiple of 3 heads, got 4"):
        sparse_attention_graph(TYPES, num_q_heads=4, scale=1.0, block_size=16)
