"""The prefix caches' names, parameters and defaults are the seed's."""

import inspect
from dataclasses import fields

import pytest

torch = pytest.importorskip("torch")

from kvcache import pools  # noqa: E402

PARAMETERS = {
    "RadixKey": {"token_ids": ..., "extra_key": None},
    "RadixCache": {
        "page_size": 1,
        "sliding_window_size": None,
        "pool": None,
        "on_node_evict": None,
    },
    "MambaRadixCache": {
        "page_size": 1,
        "token_to_kv_pool_allocator": None,
        "mamba_pool": None,
        "on_node_evict": None,
    },
    "ChunkCache": {"token_to_kv_pool_allocator": None, "device": "cpu"},
    "hash_token_ids": {"token_ids": ..., "prior_hash": None},
    "hash_to_int64": {"hex_str": ...},
    "hash_bytes": {"data": ...},
}
METHODS = {
    "reset": {},
    "match_prefix": {"key": ...},
    "insert": {"key": ..., "value": None},
    "evict": {"num_tokens": ..., "swa_num_tokens": 0},
    "inc_lock_ref": {"node": ...},
    "dec_lock_ref": {"node": ...},
    "evictable_size": {},
    "protected_size": {},
    "swa_evictable_size": {},
    "swa_protected_size": {},
    "total_size": {},
}
MORE = {
    ("RadixCache", "insert"): {"prev_prefix_len": 0, "swa_evicted_seqlen": 0},
    ("RadixCache", "dec_lock_ref"): {"swa_boundary_id": None},
    ("RadixCache", "compute_node_hash"): {"node": ...},
    ("MambaRadixCache", "insert"): {"mamba_value": None},
    ("MambaRadixCache", "mamba_evictable_size"): {},
    ("MambaRadixCache", "mamba_protected_size"): {},
}
FIELDS = {
    "MatchResult": {
        "indices": ...,
        "last_node": None,
        "prefix_len": 0,
        "mamba_branching_seqlen": None,
    },
    "InsertResult": {"prefix_len": 0, "last_node": None, "mamba_exist": False},
    "EvictResult": {"full_evicted": 0, "swa_evicted": 0, "mamba_evicted": 0},
}
CACHES = ("RadixCache", "MambaRadixCache", "ChunkCache")


def defaults(call) -> dict[str, object]:
    """Returns the parameters of a call that can be named, and defaults."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {
        name: ... if p.default is p.empty else p.default
        for name, p in inspect.signature(call).parameters.items()
        if p.kind not in kinds and name != "self"
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_come_in_the_seeds_order(name: str) -> None:
    wanted = PARAMETERS[name]
    there = defaults(getattr(pools, name))
    assert list(there)[: len(wanted)] == list(wanted)
    assert {key: there[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", CACHES)
def test_caches_have_the_seeds_methods(name: str) -> None:
    cache = getattr(pools, name)
    assert issubclass(cache, pools.BasePrefixCache)
    for method, wanted in METHODS.items():
        there = defaults(getattr(cache, method))
        assert list(there)[: len(wanted)] == list(wanted), method
        assert {key: there[key] for key in wanted} == wanted, method


@pytest.mark.parametrize(("name", "method"), MORE)
def test_further_parameters_have_the_seeds_defaults(name, method) -> None:
    there = defaults(getattr(getattr(pools, name), method))
    wanted = MORE[name, method]
    assert {key: there[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", FIELDS)
def test_results_have_the_seeds_fields(name: str) -> None:
    from dataclasses import MISSING

    there = {
        field.name: ... if field.default is MISSING else field.default
        for field in fields(getattr(pools, name))
    }
    assert there == FIELDS[name]


def test_every_cache_has_a_page_size_a_pool_and_a_device() -> None:
    for name in CACHES:
        cache = getattr(pools, name)(page_size=4)
        assert (cache.page_size, cache.pool) == (4, None)
        assert cache.device == torch.device("cpu")
    assert pools.RadixCache(4, 8, capacity=64).supports_swa
    assert not pools.RadixCache(4, capacity=64).supports_swa
    assert pools.RadixCache(4, capacity=64).sliding_window_size is None


def test_results_are_of_the_seeds_types() -> None:
    cache = pools.RadixCache(capacity=64)
    result = cache.match_prefix(pools.RadixKey([1, 2]))
    assert isinstance(result, pools.MatchResult)
    assert result.indices.dtype == torch.int64
    assert result.last_node == cache.root_node
    assert isinstance(cache.insert(pools.RadixKey([1])), pools.InsertResult)
    assert isinstance(cache.evict(1), pools.EvictResult)
