"""The seed's list of names, parameters and defaults, walked one by one."""

import inspect
from typing import Any

import pytest

from kvcache import KVCacheParams, KVCacheStrategy
from kvcache.manager import PagedKVCacheManager, RaggedKVCacheInputs
from kvcache.metrics import KVCacheMetrics

REQUIRED = inspect.Parameter.empty

Parameters = dict[str, Any]
"""Names in order, with the default of each."""

CONSTRUCTOR: Parameters = {
    "params": REQUIRED,
    "max_batch_size": REQUIRED,
    "max_seq_len": REQUIRED,
    "num_layers": REQUIRED,
    "devices": REQUIRED,
    "session": REQUIRED,
    "available_cache_memory": REQUIRED,
    "zmq_endpoint_base": None,
    "page_size": 128,
    "enable_runtime_checks": False,
}

METHODS: dict[str, Parameters] = {
    "contains": {"request_id": REQUIRED},
    "external_claim": {"request_id": REQUIRED, "replica_idx": None},
    "fetch": {"batch": REQUIRED, "num_steps": 1},
    "get_data_parallel_splits": {"context_batch": REQUIRED},
    "get_or_recommend_replica": {"context": REQUIRED},
    "get_replica": {"context": REQUIRED},
    "get_req_blocks": {"request_id": REQUIRED},
    "increment_cache_lengths": {
        "kv_cache_inputs": REQUIRED,
        "prev_model_inputs": REQUIRED,
    },
    "input_symbols": {"devices": None, "num_layers": None},
    "maybe_reserve": {"data": REQUIRED, "num_steps": 1},
    "release": {"request_id": REQUIRED},
    "reset_metrics": {},
    "reset_prefix_cache": {},
    "step": {"batch": REQUIRED},
}

_SIZES: Parameters = {
    "num_layers": REQUIRED,
    "available_cache_memory": REQUIRED,
    "devices": REQUIRED,
    "kwargs": REQUIRED,
}
CLASS_METHODS: dict[str, Parameters] = {
    "estimated_memory_size": {
        "params": REQUIRED,
        "max_batch_size": REQUIRED,
        "max_seq_len": REQUIRED,
        **_SIZES,
    },
    "infer_optimal_batch_size": {
        "params": REQUIRED,
        "max_seq_len": REQUIRED,
        **_SIZES,
    },
    "max_supported_sequence_length": {
        "params": REQUIRED,
        "num_layers": REQUIRED,
        "memory_available": REQUIRED,
    },
}

PROPERTIES: dict[str, type] = {
    "free_blocks_pct": float,
    "host_committed_block_pct": float,
    "metrics": KVCacheMetrics,
    "num_free_blocks": int,
    "total_num_host_pages": int,
    "used_blocks_pct": float,
}

ATTRIBUTES: dict[str, object] = {
    "max_batch_size": 3,
    "max_seq_len": 99,
    "num_layers": 2,
    "devices_per_replica": 2,
    "num_replicas": 2,
    "page_size": 16,
    "enable_prefix_caching": True,
    "enable_kvcache_swapping_to_host": False,
    "total_num_pages": 8,
    "session": None,
}

INPUTS: Parameters = {
    "blocks": REQUIRED,
    "cache_lengths": REQUIRED,
    "lookup_table": REQUIRED,
    "max_lengths": REQUIRED,
}

PARAMS: Parameters = {
    "dtype": REQUIRED,
    "n_kv_heads": REQUIRED,
    "head_dim": REQUIRED,
    "enable_prefix_caching": False,
    "enable_kvcache_swapping_to_host": False,
    "host_kvcache_swap_space_gb": None,
    "cache_strategy": KVCacheStrategy.PAGED,
    "page_size": None,
    "n_devices": 1,
    "is_mla": False,
    "data_parallel_degree": 1,
}

SEED_MEMBERS = """
    contains estimated_memory_size external_claim fetch free_blocks_pct
    get_data_parallel_splits get_or_recommend_replica get_replica
    get_req_blocks host_committed_block_pct increment_cache_lengths
    infer_optimal_batch_size input_symbols max_supported_sequence_length
    maybe_reserve metrics num_free_blocks release reset_metrics
    reset_prefix_cache step total_num_host_pages used_blocks_pct
"""
"""Every member that the seed's page lists."""


def signature(member: Any) -> Parameters:
    """A call's parameters as a caller sees them, those of our own left out.

    Ours come behind the seed's and by name only.
    """
    parameters = inspect.signature(member).parameters.values()
    return {
        each.name: each.default
        for each in parameters
        if each.kind is not inspect.Parameter.KEYWORD_ONLY
        and each.name != "self"
    }


@pytest.fixture(scope="module")
def manager() -> PagedKVCacheManager:
    from managers import HOST

    params = KVCacheParams(
        "float32",
        2,
        8,
        True,
        page_size=16,
        n_devices=4,
        data_parallel_degree=2,
    )
    memory = 8 * params.bytes_per_page(2)
    return PagedKVCacheManager(
        params, 3, 99, 2, [HOST] * 4, None, memory, page_size=16
    )


def test_the_lists_name_every_member_of_the_seed() -> None:
    listed = [*METHODS, *CLASS_METHODS, *PROPERTIES]
    assert sorted(listed) == sorted(SEED_MEMBERS.split())


def test_the_constructor_is_the_seeds() -> None:
    found = signature(PagedKVCacheManager)
    assert list(found.items()) == list(CONSTRUCTOR.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_seeds_parameters(name: str) -> None:
    found = signature(getattr(PagedKVCacheManager, name))
    assert list(found.items()) == list(METHODS[name].items())


@pytest.mark.parametrize("name", CLASS_METHODS)
def test_a_class_method_has_the_seeds_parameters(name: str) -> None:
    member = inspect.getattr_static(PagedKVCacheManager, name)
    assert isinstance(member, classmethod)
    found = signature(getattr(PagedKVCacheManager, name))
    assert list(found.items()) == list(CLASS_METHODS[name].items())


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_is_read_without_a_call(
    name: str, manager: PagedKVCacheManager
) -> None:
    assert type(getattr(manager, name)) is PROPERTIES[name]


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_says_what_was_given(
    name: str, manager: PagedKVCacheManager
) -> None:
    assert getattr(manager, name) == ATTRIBUTES[name]


def test_params_and_devices_are_kept(manager: PagedKVCacheManager) -> None:
    assert manager.params.data_parallel_degree == 2
    assert len(manager.devices) == 4


def test_inputs_are_four_in_the_seeds_order() -> None:
    assert list(signature(RaggedKVCacheInputs).items()) == list(INPUTS.items())


def test_cache_params_begin_with_the_seeds() -> None:
    ours = list(signature(KVCacheParams).items())
    assert ours[: len(PARAMS)] == list(PARAMS.items())
    assert all(default is not REQUIRED for _, default in ours[len(PARAMS) :])
    assert signature(KVCacheParams.copy_as_dp_1) == {}


def test_every_member_says_what_it_does() -> None:
    for name in SEED_MEMBERS.split():
        assert inspect.getdoc(getattr(PagedKVCacheManager, name)), name


def test_what_is_ours_comes_by_name_only() -> None:
    parameters = inspect.signature(PagedKVCacheManager).parameters.values()
    ours = [each for each in parameters if each.name not in CONSTRUCTOR]
    assert ours
    for each in ours:
        assert each.kind is inspect.Parameter.KEYWORD_ONLY
        assert each.default is not REQUIRED
