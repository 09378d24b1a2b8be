"""What cannot be planned is said with what was wanted and what came."""

from collections.abc import Callable
from typing import Any

import pytest

from kvcache.errors import (
    InsufficientMemoryError,
    InvalidParamsError,
    KVCacheError,
)
from kvcache.planning import (
    KVFormat,
    MemoryBudget,
    ModelShape,
    RecurrentState,
    WindowLayers,
    formats_for,
    parse_shape,
    plan_cache,
)
from kvcache.quantization import Quantization

SHAPE = ModelShape(num_layers=2, num_kv_heads=4, head_dim=16)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"memory": 1000}, 900),
        ({"memory": 1000, "utilization": 1}, 1000),
        ({"memory": 1000, "utilization": 0.5, "in_use": 100}, 400),
        ({"memory": 1001, "utilization": 0.5, "n_devices": 3}, 1500),
        ({"memory": 80 * 2**30, "utilization": 0.9}, 77_309_411_328),
    ],
)
def test_budget_by_hand(fields: dict[str, Any], size: int) -> None:
    assert MemoryBudget(**fields).bytes == size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"memory": 0}, "memory must be positive, got 0"),
        ({"utilization": 0}, "above 0 and at most 1, got 0"),
        ({"utilization": 1.01}, "above 0 and at most 1, got 1.01"),
        ({"utilization": float("nan")}, "above 0 and at most 1, got nan"),
        ({"in_use": -1}, "in_use must not be negative, got -1"),
        ({"n_devices": 0}, "n_devices must be positive, got 0"),
    ],
)
def test_budget_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParamsError, match=message):
        MemoryBudget(**{"memory": 1000, **fields})


def test_budget_with_nothing_left() -> None:
    message = "got none: 900 bytes may be used, 900 are in use"
    with pytest.raises(InsufficientMemoryError, match=message):
        MemoryBudget(memory=1000, in_use=900)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ModelShape(num_layers=0, num_kv_heads=1, head_dim=8),
            "num_layers must be positive, got 0",
        ),
        (
            lambda: ModelShape(num_layers=1, num_kv_heads=1, head_dim=-8),
            "head_dim must be positive, got -8",
        ),
        (
            lambda: ModelShape(
                num_layers=1, num_kv_heads=1, head_dim=8, max_seq_len=0
            ),
            "max_seq_len must be positive, got 0",
        ),
        (
            lambda: ModelShape(
                num_layers=1,
                num_kv_heads=1,
                head_dim=8,
                window=WindowLayers(num_layers=2, tokens=4),
            ),
            "a window in at most 1 layers, got one in 2",
        ),
        (
            lambda: WindowLayers(num_layers=1, tokens=0),
            "tokens must be positive, got 0",
        ),
        (
            lambda: RecurrentState(num_layers=1, recurrent_bytes=0),
            "recurrent_bytes must be positive, got 0",
        ),
        (
            lambda: RecurrentState(
                num_layers=1, recurrent_bytes=1, conv_bytes=-1
            ),
            "conv_bytes must not be negative, got -1",
        ),
    ],
)
def test_shapes_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidParamsError, match=message):
        make()


def plan(**changes: Any) -> object:
    arguments: dict[str, Any] = {
        "shape": SHAPE,
        "kv_format": KVFormat("float32"),
        "budget": MemoryBudget(memory=1_000_000),
        "page_size": 16,
        "max_len": 100,
        **changes,
    }
    shape, kv_format = arguments.pop("shape"), arguments.pop("kv_format")
    return plan_cache(shape, kv_format, arguments.pop("budget"), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_len": 0}, "max_len must be positive, got 0"),
        ({"mean_len": 0}, "mean_len must be from 1 to max_len 100, got 0"),
        ({"mean_len": 101}, "mean_len must be from 1 to max_len 100, got 101"),
        ({"page_size": 0}, "page_size must be positive, got 0"),
        (
            {"budget": MemoryBudget(memory=10**6, n_devices=3)},
            "multiple of the devices of a replica, got 4 heads for 3 devices",
        ),
        (
            {"kv_format": KVFormat("int8", Quantization(group_size=32))},
            "group_size must be one of .* for a head_dim of 16, got 32",
        ),
        ({"kv_format": KVFormat("int3")}, "dtype must be one of"),
        (
            {
                "shape": ModelShape(
                    num_layers=1,
                    num_kv_heads=6,
                    head_dim=8,
                    state=RecurrentState(
                        num_layers=1, recurrent_bytes=64, num_shares=4
                    ),
                ),
                "budget": MemoryBudget(memory=10**6, n_devices=3),
            },
            "recurrent layers that 3 devices can share, got 4 equal shares",
        ),
    ],
)
def test_plans_that_a_manager_would_refuse(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParamsError, match=message):
        plan(**changes)


def test_host_memory_under_a_page() -> None:
    with pytest.raises(InsufficientMemoryError, match="of host memory"):
        plan(host_memory=100)


def test_memory_under_a_page_is_said_and_not_raised() -> None:
    # 2 * 2 layers * 16 tokens * 4 heads * 16 elements * 4 bytes.
    made = plan_cache(
        SHAPE,
        KVFormat("float32"),
        MemoryBudget(memory=16_383, utilization=1),
        page_size=16,
        max_len=1,
    )
    assert (made.num_pages, made.max_requests, made.pool_bytes) == (0, 0, 0)
    assert made.shortage == (
        "wanted at least 16384 bytes of cache memory for a single page, got "
        "16383"
    )


def test_memory_under_a_request_is_said() -> None:
    made = plan_cache(
        SHAPE,
        KVFormat("float32"),
        MemoryBudget(memory=3 * 16_384, utilization=1),
        page_size=16,
        max_len=49,
    )
    assert (made.num_pages, made.max_requests) == (3, 0)
    assert made.shortage == (
        "a request of 49 tokens wants 4 pages, there are 3"
    )
    assert made.requests(48) == 1


def test_latents_that_no_group_divides_have_no_quantised_format() -> None:
    odd = ModelShape(num_layers=1, num_kv_heads=1, head_dim=1021, is_mla=True)
    assert [each.quantization for each in formats_for(odd)] == [None] * 3
    deepseek = ModelShape(
        num_layers=1, num_kv_heads=1, head_dim=576, is_mla=True
    )
    groups = {
        each.quantization.group_size
        for each in formats_for(deepseek)
        if each.quantization
    }
    assert groups == {64}


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (
            "layers=32,kv_heads=8,head_dim=128",
            ModelShape(num_layers=32, num_kv_heads=8, head_dim=128),
        ),
        (
            " latent_dim=576 , layers = 61",
            ModelShape(
                num_layers=61, num_kv_heads=1, head_dim=576, is_mla=True
            ),
        ),
        (
            "layers=6,kv_heads=1,head_dim=8,window=512",
            ModelShape(
                num_layers=6,
                num_kv_heads=1,
                head_dim=8,
                window=WindowLayers(num_layers=6, tokens=512),
            ),
        ),
        (
            "layers=6,kv_heads=1,head_dim=8,window=512,window_layers=5",
            ModelShape(
                num_layers=6,
                num_kv_heads=1,
                head_dim=8,
                window=WindowLayers(num_layers=5, tokens=512),
            ),
        ),
    ],
)
def test_shape_is_read_from_text(text: str, shape: ModelShape) -> None:
    assert parse_shape(text) == shape


def test_state_of_a_shape_can_be_split_evenly_only() -> None:
    shape = parse_shape("layers=1,kv_heads=6,head_dim=8,state_bytes=1000")
    assert shape.state is not None
    assert shape.state.bytes_per_request == 1000
    shape.params(KVFormat("float32"), page_size=16, n_devices=2)
    with pytest.raises(InvalidParamsError, match="3 devices can share"):
        shape.params(KVFormat("float32"), page_size=16, n_devices=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted layers, .* in the shape, got ''"),
        ("layers=2", "wanted kv_heads in the shape, got 'layers=2'"),
        ("layers=2,kv_heads=2", "wanted head_dim in the shape"),
        ("latent_dim=8", "wanted layers in the shape"),
        ("layers=2,heads=2", "got 'heads=2'"),
        ("layers=2,layers=2", "wanted one layers, got two"),
        ("layers=0,latent_dim=8", "positive whole number for layers, got '0'"),
        ("layers=-1,latent_dim=8", "whole number for layers, got '-1'"),
        ("layers=²,latent_dim=8", "whole number for layers, got '²'"),
        ("layers,latent_dim=8", "whole number for layers, got ''"),
        ("layers=2,latent_dim=8,head_dim=8", "got latent_dim and head_dim"),
        ("layers=2,latent_dim=8,window_layers=1", "a window for window_layers"),
        (
            "layers=2,latent_dim=8,window=4,window_layers=3",
            "in at most 2 layers, got one in 3",
        ),
    ],
)
def test_text_that_is_no_shape(text: str, message: str) -> None:
    with pytest.raises(InvalidParamsError, match=message) as caught:
        parse_shape(text)
    assert isinstance(caught.value, KVCacheError)
