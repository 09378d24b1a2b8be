from dataclasses import fields, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from max.dtype import DType

from kvcache import KVCacheParams, KVCacheStrategy
from kvcache.errors import InvalidParamsError
from kvcache.spec import pages_for
from kvcache.summaries import Summaries, SummaryField

SUMMARIES = Summaries(
    32, (SummaryField("a", 3, 64), SummaryField("b", 1, 1, "float32"))
)


def params(**changes: Any) -> KVCacheParams:
    given = {"dtype": "float32", "n_kv_heads": 4, "head_dim": 64}
    return KVCacheParams(**{**given, "page_size": 16, **changes})


def test_fields_keep_the_order_of_the_seed() -> None:
    ours = KVCacheParams(
        "bfloat16", 8, 128, True, False, None, KVCacheStrategy.PAGED, 128
    )
    assert ours.enable_prefix_caching
    assert ours.page_size == 128
    assert (ours.n_devices, ours.is_mla, ours.data_parallel_degree) == (
        1,
        False,
        1,
    )


@pytest.mark.parametrize(
    ("dtype", "name", "size"),
    [
        ("float32", "float32", 4),
        (np.float32, "float32", 4),
        (np.dtype(np.float16), "float16", 2),
        (ml_dtypes.bfloat16, "bfloat16", 2),
        (np.dtype(ml_dtypes.bfloat16), "bfloat16", 2),
        (DType.bfloat16, "bfloat16", 2),
        (DType.float8_e4m3fn, "float8_e4m3fn", 1),
    ],
)
def test_a_dtype_is_kept_as_its_name(dtype: Any, name: str, size: int) -> None:
    ours = params(dtype=dtype)
    assert ours.dtype == name
    assert ours.dtype_bytes == size


@pytest.mark.parametrize("dtype", ["float31", "int64", bool, None, 4, object()])
def test_an_unknown_dtype_is_refused(dtype: Any) -> None:
    with pytest.raises(InvalidParamsError, match="dtype must be one of"):
        params(dtype=dtype)


def test_bytes_worked_by_hand() -> None:
    # 2 (K and V) * 4 heads * 64 elements * 4 bytes * 30 layers.
    assert params().bytes_per_token(30) == 61_440
    assert params().bytes_per_page(30) == 61_440 * 16
    # Latent: one vector, one head.
    assert params(is_mla=True).bytes_per_token(30) == 7_680


def test_summaries_are_the_last_field_and_of_pages() -> None:
    assert [field.name for field in fields(KVCacheParams)][-1] == "summaries"
    ours = params(page_size=64, summaries=SUMMARIES)
    bare = params(page_size=64)
    # 30 layers * 2 blocks * 4 heads, of 3 * 64 elements of 2 bytes and 4.
    share = 30 * 2 * 4 * (3 * 64 * 2 + 4)
    assert ours.bytes_per_page(30) == bare.bytes_per_page(30) + share
    assert ours.bytes_per_page(30, 32) == (
        bare.bytes_per_page(30, 32) + share // 2
    )
    assert ours.bytes_per_token(30) == bare.bytes_per_token(30)
    two = replace(ours, n_devices=2)
    assert two.bytes_per_page(30) == ours.bytes_per_page(30)
    four = replace(ours, n_devices=4, data_parallel_degree=2)
    assert four.bytes_per_page(30) == ours.bytes_per_page(30)
    assert four.copy_as_dp_1() == two


def test_tensor_parallel_devices_share_heads() -> None:
    ours = params(n_devices=2)
    assert ours.n_kv_heads_per_device == 2
    assert ours.bytes_per_token(1) == params().bytes_per_token(1)


def test_replicas_hold_all_heads_each() -> None:
    ours = params(n_devices=3, data_parallel_degree=3)
    assert ours.n_kv_heads_per_device == 4
    assert ours.devices_per_replica == 1
    assert ours.bytes_per_token(1) == params().bytes_per_token(1)


def test_replicas_split_heads_over_their_own_devices() -> None:
    ours = params(n_devices=6, data_parallel_degree=3)
    assert ours.devices_per_replica == 2
    assert ours.n_kv_heads_per_device == 2
    # 2 (K and V) * 4 heads * 64 elements * 4 bytes, over both devices.
    assert ours.bytes_per_token(1) == 2048
    assert ours.bytes_per_page(1) == 2048 * 16
    assert ours.copy_as_dp_1() == params(n_devices=2)


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_a_latent_is_on_each_device_of_a_replica(degree: int) -> None:
    ours = params(is_mla=True, n_devices=4, data_parallel_degree=degree)
    assert ours.n_kv_heads_per_device == 1
    # One vector of 64 elements, 4 bytes each, on every device of a replica.
    assert ours.bytes_per_token(1) == 256 * (4 // degree)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_kv_heads": 0}, "n_kv_heads must be positive, got 0"),
        ({"head_dim": -1}, "head_dim must be positive, got -1"),
        ({"page_size": 0}, "page_size must be positive, got 0"),
        ({"page_size": None}, "wants a page_size, got None"),
        ({"data_parallel_degree": 2}, "2 replicas of 1 devices"),
        (
            {"n_devices": 4, "data_parallel_degree": 3},
            "multiple of data_parallel_degree, got 4 devices for 3 replicas",
        ),
        ({"n_devices": 3}, "4 heads for 3 devices"),
        (
            {"n_devices": 6, "data_parallel_degree": 2},
            "4 heads for 3 devices",
        ),
        (
            {
                "enable_prefix_caching": True,
                "cache_strategy": KVCacheStrategy.MODEL_DEFAULT,
            },
            "prefix caching wants the paged strategy",
        ),
        (
            {
                "enable_kvcache_swapping_to_host": True,
                "cache_strategy": KVCacheStrategy.MODEL_DEFAULT,
            },
            "swapping to the host wants the paged strategy",
        ),
        (
            {
                "enable_kvcache_swapping_to_host": True,
                "host_kvcache_swap_space_gb": 1.0,
            },
            "wants enable_prefix_caching=True",
        ),
        (
            {
                "enable_kvcache_swapping_to_host": True,
                "enable_prefix_caching": True,
            },
            "wants host_kvcache_swap_space_gb",
        ),
        (
            {"summaries": SUMMARIES},
            "page_size that blocks of 32 tokens fill, got 16",
        ),
        (
            {"summaries": SUMMARIES, "page_size": 48},
            "page_size that blocks of 32 tokens fill, got 48",
        ),
        (
            {"summaries": SUMMARIES, "page_size": 64, "is_mla": True},
            "summaries want keys of heads, got is_mla=True",
        ),
    ],
)
def test_params_that_cannot_be_are_value_errors(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        params(**changes)


def test_a_page_size_is_only_needed_for_pages() -> None:
    ours = params(page_size=None, cache_strategy=KVCacheStrategy.MODEL_DEFAULT)
    with pytest.raises(InvalidParamsError, match="wanted a page_size"):
        ours.bytes_per_page(1)


def test_pages_for_rounds_up() -> None:
    assert [pages_for(n, 16) for n in (0, 1, 15, 16, 17)] == [0, 1, 1, 1, 2]
