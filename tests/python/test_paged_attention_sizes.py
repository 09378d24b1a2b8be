import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from max.dtype import DType

from kvcache import KVCacheError
from kvcache.errors import InvalidParamsError, MemoryBudgetError
from kvcache.paged_attention import (
    DeviceMemory,
    Mesh,
    PageQuantizer,
    PartitionAxis,
)
from kvcache.paged_attention.memory import memory_of
from kvcache.quantization import Quantization
from paged_caches import create, sizes

CHECKED = [
    "batch_size",
    "num_hidden_layers",
    "max_sequences",
    "page_size",
    "num_kv_heads",
    "kv_head_dim_size",
]
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


def test_the_example_of_the_seed() -> None:
    found = create()
    assert found.hbm_bytes == 8000
    assert found.num_pages_per_layer == 41
    assert found.num_pages_per_sequence == 3
    assert found.max_sequence_length == found.max_sequences == 10
    assert found.pages_shape == (2, 41, 4, 3)
    assert found.dtype == "bfloat16"


@given(
    layers=st.integers(1, 5),
    length=st.integers(1, 40),
    page_size=st.integers(1, 9),
    heads=st.integers(1, 5),
    head_dim=st.integers(1, 20),
    used=st.integers(0, 2000),
    limit=st.integers(1, 200_000),
    utilization=st.floats(0, 1, exclude_min=True, exclude_max=True),
    dtype=st.sampled_from(sorted(ITEMSIZE)),
    devices=st.integers(1, 3),
)
def test_pages_are_what_the_budget_holds(
    layers: int,
    length: int,
    page_size: int,
    heads: int,
    head_dim: int,
    used: int,
    limit: int,
    utilization: float,
    dtype: str,
    devices: int,
) -> None:
    budget = math.floor(Fraction(limit * utilization)) - used
    budget *= devices
    page = page_size * 2 * heads * devices * head_dim * ITEMSIZE[dtype]
    pages = math.floor(Fraction(math.floor(Fraction(budget, layers)), page))
    each = math.ceil(Fraction(length, page_size))
    arguments = {
        "mesh": Mesh([f"gpu:{x}" for x in range(devices)], "tp"),
        "num_hidden_layers": layers,
        "max_sequences": length,
        "page_size": page_size,
        "num_kv_heads": heads * devices,
        "kv_head_dim_size": head_dim,
        "hbm_utilization": utilization,
        "dtype": dtype,
        "memory": DeviceMemory(limit, used),
    }
    if budget <= 0 or pages <= each:
        with pytest.raises(MemoryBudgetError):
            create(**arguments)
        return
    found = create(**arguments)
    assert found.hbm_bytes == budget
    assert found.num_pages_per_layer == pages
    assert found.num_pages_per_sequence == each


@pytest.mark.parametrize("place", range(len(CHECKED)))
@pytest.mark.parametrize("value", [0, -1])
def test_the_first_size_that_is_not_positive_is_named(
    place: int, value: int
) -> None:
    wrong = dict.fromkeys(CHECKED[place:], value)
    wanted = f"^`{CHECKED[place]}` must be positive, got {value}"
    with pytest.raises(InvalidParamsError, match=wanted):
        create(**wrong, hbm_utilization=7, dtype="int3")
    with pytest.raises(InvalidParamsError, match=wanted):
        sizes(**wrong, hbm_utilization=7, dtype="int3")


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("value", [2.0, "2", None, True, [2]])
def test_a_size_is_an_integer(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^`{name}` must be an integer"):
        create(**{name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    assert create(page_size=np.int64(4)) == create()
    assert type(create(page_size=np.int64(4)).page_size) is int


@pytest.mark.parametrize(
    "value", [0, 1, 1.0, -0.5, 1.5, math.nan, math.inf, "0.5", None, True]
)
def test_the_utilisation_is_strictly_between_0_and_1(value: object) -> None:
    wanted = "^`hbm_utilization` must be positive float value in range 0~1"
    with pytest.raises(ValueError, match=wanted):
        create(hbm_utilization=value, dtype="int3")


@pytest.mark.parametrize("value", ["float64", "int8", "", None, 3, np.int32])
def test_a_type_is_one_that_rows_have(value: object) -> None:
    with pytest.raises(ValueError, match=r"^`dtype` must be one of float32"):
        create(dtype=value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.float16, "float16"),
        (np.dtype("float32"), "float32"),
        (DType.bfloat16, "bfloat16"),
        ("torch.bfloat16", "bfloat16"),
    ],
)
def test_a_type_is_kept_by_its_name(value: object, name: str) -> None:
    assert create(dtype=value).dtype == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": ["cpu"]}, "^`mesh` must be a Mesh"),
        ({"mesh": Mesh(["cpu"], "dp")}, "must name axes of the mesh, dp"),
        ({"partition_axis": "tp"}, "^`partition_axis` must be a Partition"),
        ({"memory": 8000}, "^`memory` must be a DeviceMemory"),
        ({"quantizer": "int8"}, "^`quantizer` must be a PageQuantizer"),
        ({"mesh": Mesh(["cpu"] * 3, "tp")}, "^`num_kv_heads` must be a mult"),
        ({"memory": DeviceMemory(16000, 8000)}, "must leave memory for pages"),
        ({"memory": DeviceMemory(16000, 9000)}, "must leave memory for pages"),
        ({"memory": DeviceMemory(16000, 7999)}, "1 bytes, which hold 0"),
        ({"max_sequences": 161}, "^wanted memory for 41 pages of a sequence"),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        create(**changes)
    assert isinstance(caught.value, KVCacheError)


def test_one_sequence_fills_all_pages_but_the_dummy() -> None:
    assert create(max_sequences=160).num_pages_per_sequence == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_pages_per_layer": 0}, "`num_pages_per_layer` must be positive"),
        ({"num_pages_per_layer": -27}, "`num_pages_per_layer` must be pos"),
        ({"num_pages_per_sequence": 2}, "must be at least 3 for 12 tokens"),
        ({"hbm_bytes": -1}, "`hbm_bytes` must be positive"),
        ({"hbm_bytes": 1.5}, "`hbm_bytes` must be an integer"),
    ],
)
def test_the_constructor_checks_too(
    changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sizes(**changes)


def test_devices_with_the_same_pages_count_once() -> None:
    mesh = Mesh([["gpu:0", "gpu:1"], ["gpu:2", "gpu:3"]], ("dp", "tp"))
    found = create(mesh=mesh, memory=DeviceMemory(32000))
    assert found.hbm_bytes == 4 * 16000
    # Each device: its 16000 bytes hold pages of one head in two layers.
    assert found.num_pages_per_layer == 16000 // 2 // (4 * 1 * 3 * 2 * 2)


def test_logical_shards_share_the_memory_of_their_device() -> None:
    for count in (1, 2):
        found = create(mesh=Mesh(["cpu"] * count, "tp"))
        assert (found.hbm_bytes, found.num_pages_per_layer) == (8000, 41)
    # Copies on one device take their room each.
    mesh = Mesh([["cpu"] * 2] * 2, ("dp", "tp"))
    assert create(mesh=mesh).num_pages_per_layer == 8000 // 2 // 2 // 96
    # The fullest device decides: two of three parts are on one.
    mesh = Mesh(["gpu:0", "gpu:0", "gpu:1"], "tp")
    assert create(mesh=mesh, num_kv_heads=3).hbm_bytes == 12000


def test_pages_split_evenly_over_the_batch_axis() -> None:
    mesh = Mesh(["gpu:0", "gpu:1", "gpu:2"], "dp")
    axes = PartitionAxis(batch_axis="dp", head_axis=None)
    whole = create(mesh=mesh, partition_axis=PartitionAxis(head_axis=None))
    found = create(mesh=mesh, partition_axis=axes)
    assert whole.num_pages_per_layer == 41
    assert found.num_pages_per_layer == 3 * 8000 // 2 // 96 // 3 * 3 == 123
    assert found.replace(num_pages_per_layer=41).num_pages_per_layer == 41


def test_tokens_of_a_page_split_evenly() -> None:
    axes = PartitionAxis(sequence_axis="sp", head_axis=None)
    with pytest.raises(ValueError, match=r"^`page_size` must be a multiple of"):
        create(mesh=Mesh(["cpu"] * 3, "sp"), partition_axis=axes)


@pytest.mark.parametrize(
    ("quantization", "page_bytes", "beside"),
    [
        (Quantization(), 2 * 4 * 2 * (16 + 4), 0),
        (Quantization(group_size=8), 2 * 4 * 2 * (16 + 8), 0),
        (Quantization(granularity="head"), 2 * 4 * 2 * 16, 2 * 2 * 4),
        (Quantization(granularity="tensor"), 2 * 4 * 2 * 16, 2 * 2 * 4),
    ],
)
def test_scales_are_counted(
    quantization: Quantization, page_bytes: int, beside: int
) -> None:
    found = create(
        kv_head_dim_size=16, quantizer=PageQuantizer("int8", quantization)
    )
    assert found.num_pages_per_layer == (4000 - beside) // page_bytes
    assert found.quantizer == PageQuantizer("int8", quantization)


def test_scales_beside_the_pages_take_their_room() -> None:
    # Ten pages of 256 bytes, and 15 of the 16 bytes of scales.
    quantizer = PageQuantizer("int8", Quantization(granularity="head"))
    memory = DeviceMemory(2 * 2 * (10 * 256 + 15))
    arguments = {"kv_head_dim_size": 16, "quantizer": quantizer}
    found = create(memory=memory, **arguments)
    assert found.num_pages_per_layer == 9
    more = DeviceMemory(memory.bytes_reservable_limit + 4)
    assert create(memory=more, **arguments).num_pages_per_layer == 10


def test_bytes_may_be_a_float_as_in_the_seed() -> None:
    found = sizes(hbm_bytes=8000.0)
    assert found.hbm_bytes == 8000
    assert type(found.hbm_bytes) is int


def test_a_group_divides_the_head() -> None:
    quantizer = PageQuantizer("int8", Quantization(group_size=8))
    for make in (create, sizes):
        with pytest.raises(ValueError, match="group_size must be one of"):
            make(kv_head_dim_size=12, quantizer=quantizer)


def test_the_memory_of_the_cpu_is_known() -> None:
    memory = memory_of("cpu:0")
    assert 0 <= memory.bytes_in_use < memory.bytes_reservable_limit
    assert memory.bytes_reservable_limit > 1 << 28
    found = create(memory=None, hbm_utilization=0.9)
    most = int(0.9 * memory.bytes_reservable_limit)
    assert 0 < found.hbm_bytes <= most


def test_a_gpu_that_is_not_there_has_no_memory() -> None:
    with pytest.raises(ValueError, match="must have devices that are there"):
        create(mesh=Mesh(["gpu:99"], "tp"), memory=None)


@pytest.mark.parametrize("numbers", [(0, 0), (-5, 0), (5, -1), (5, 1.0)])
def test_memory_is_counted_in_bytes(numbers: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="`bytes_"):
        DeviceMemory(*numbers)
