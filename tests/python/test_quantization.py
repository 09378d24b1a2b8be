"""Which scales pages have, what they weigh, and what is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
from max.dtype import DType
from max.graph import DeviceRef

from kvcache import KVCacheParams
from kvcache.cache_types import POOL_DTYPES, CacheInputTypes
from kvcache.cli.options import KVDtype
from kvcache.errors import InvalidParamsError
from kvcache.manager.sizing import CacheSizing
from kvcache.quantization import (
    QUANTIZED_DTYPES,
    Granularity,
    Quantization,
    group_sizes,
)
from kvcache.serve.engine import cache_params


def params(quantization: Quantization | None, **changes: Any) -> KVCacheParams:
    values = {
        "dtype": "int8",
        "n_kv_heads": 4,
        "head_dim": 64,
        "page_size": 16,
        "quantization": quantization,
    }
    return KVCacheParams(**{**values, **changes})


TENSOR = Quantization(granularity=Granularity.TENSOR)
HEAD = Quantization(granularity=Granularity.HEAD)
TOKEN = Quantization()
GROUPS = Quantization(group_size=32)


def test_granularity_may_be_given_by_name() -> None:
    named = Quantization(granularity="head")  # type: ignore[arg-type]
    assert named == HEAD
    assert named.granularity is Granularity.HEAD


def test_kernels_count_granularities_from_one() -> None:
    assert [each.number for each in Granularity] == [1, 2, 3]


@pytest.mark.parametrize(
    ("quantization", "shape"),
    [
        (TENSOR, (1, 1, 1)),
        (HEAD, (1, 4, 1)),
        (TOKEN, (16, 4, 1)),
        (GROUPS, (16, 4, 2)),
    ],
)
def test_scales_of_a_page_by_hand(
    quantization: Quantization, shape: tuple[int, int, int]
) -> None:
    ours = params(quantization)
    assert ours.scales_per_page(quantization, 16) == shape


@pytest.mark.parametrize(
    ("quantization", "per_token", "per_page"),
    [
        # 2 * 3 layers * 4 heads * 64 elements; a scale has 4 bytes.
        (None, 1536, 24576),
        (TENSOR, 1536, 24576 + 2 * 3 * 4),
        (HEAD, 1536, 24576 + 2 * 3 * 4 * 4),
        (TOKEN, 1536 + 2 * 3 * 4 * 4, 24576 + 16 * 96),
        (GROUPS, 1536 + 2 * 2 * 3 * 4 * 4, 24576 + 16 * 192),
    ],
)
def test_scales_weigh_something(
    quantization: Quantization | None, per_token: int, per_page: int
) -> None:
    ours = params(quantization)
    assert ours.bytes_per_token(3) == per_token
    assert ours.bytes_per_page(3) == per_page


@pytest.mark.parametrize("quantization", [None, TENSOR, HEAD, TOKEN])
def test_bytes_count_every_device_of_a_replica(
    quantization: Quantization | None,
) -> None:
    one = params(quantization, n_devices=1).bytes_per_page(3)
    two = params(quantization, n_devices=2)
    # Each device has a scale of its own where the tensor has one.
    more = 2 * 3 * 4 if quantization == TENSOR else 0
    assert two.bytes_per_page(3) == one + more


def test_a_page_may_be_of_another_size() -> None:
    ours = params(TOKEN, page_size=None, cache_strategy="model_default")
    assert ours.bytes_per_page(3, 32) == 32 * ours.bytes_per_token(3)
    with pytest.raises(InvalidParamsError, match="wanted a page_size"):
        ours.bytes_per_page(3)


@pytest.mark.parametrize("quantization", [None, TENSOR, HEAD, TOKEN, GROUPS])
def test_sizing_counts_whole_pages(quantization: Quantization | None) -> None:
    ours = params(quantization)
    page = ours.bytes_per_page(3)
    length = CacheSizing.max_supported_sequence_length
    assert length(ours, 3, 5 * page) == 5 * 16
    assert length(ours, 3, 5 * page - 1) == 4 * 16
    estimate = CacheSizing.estimated_memory_size
    assert estimate(ours, 2, 17, 3, 10**9, []) == 2 * 2 * page


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"granularity": "page"},
            "granularity must be one of tensor, head, token, got 'page'",
        ),
        (
            {"granularity": "head", "group_size": 8},
            "group_size wants granularity token, got head",
        ),
    ],
)
def test_bad_quantization_is_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParamsError, match=message):
        Quantization(**values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "bfloat16"}, "wants a dtype of .*int8, got bfloat16"),
        ({"dtype": "uint8"}, "wants a dtype of .*int8, got uint8"),
        ({"dtype": "float8_e4m3fnuz"}, "got float8_e4m3fnuz"),
        ({"head_dim": 40}, r"one of \[8, 40\] for a head_dim of 40, got 32"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParamsError, match=message):
        params(GROUPS, **changes)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (HEAD, "latents want granularity token, got head"),
        (TENSOR, "latents want granularity token, got tensor"),
        (TOKEN, "latents want a group_size of at most 256, got 576"),
    ],
)
def test_a_latent_has_scales_for_each_of_its_groups(
    quantization: Quantization, message: str
) -> None:
    with pytest.raises(InvalidParamsError, match=message):
        params(quantization, is_mla=True, head_dim=576)
    fitting = params(GROUPS, is_mla=True, head_dim=576)
    assert fitting.bytes_per_token(2) == 2 * (576 + 576 // 32 * 4)


@pytest.mark.parametrize(
    ("head_dim", "sizes"),
    [
        (8, [8]),
        (40, [8, 40]),
        (64, [8, 16, 32, 64]),
        (192, [8, 16, 32, 64, 192]),
    ],
)
def test_groups_are_powers_of_two_or_the_whole_head(
    head_dim: int, sizes: list[int]
) -> None:
    assert group_sizes(head_dim) == sizes
    for size in range(-1, head_dim + 9):
        groups = Quantization(group_size=size)
        if size in sizes:
            ours = params(groups, head_dim=head_dim)
            assert ours.scales_per_page(groups, 1)[2] == head_dim // size
        else:
            with pytest.raises(InvalidParamsError, match=f"got {size}$"):
                params(groups, head_dim=head_dim)


@pytest.mark.parametrize("kv_dtype", list(KVDtype))
def test_options_name_what_the_kernels_take(kv_dtype: KVDtype) -> None:
    config = SimpleNamespace(num_kv_heads=4, head_dim=64)
    ours = cache_params(config, kv_dtype=kv_dtype.value)  # type: ignore[arg-type]
    assert ours.dtype == kv_dtype.value
    is_quantized = ours.dtype in QUANTIZED_DTYPES
    assert (ours.quantization is None) != is_quantized
    types = CacheInputTypes(
        dtype=DType[ours.dtype],
        num_layers=1,
        page_size=16,
        num_kv_heads=4,
        head_dim=64,
        device=DeviceRef.CPU(),
        quantization=ours.quantization,
        compute_dtype=DType.float32 if is_quantized else None,
    )
    assert len(types) == 4 + is_quantized


def test_every_type_of_the_kernels_is_an_option() -> None:
    assert {each.value for each in KVDtype} == {t.name for t in POOL_DTYPES}
