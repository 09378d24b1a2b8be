"""The seed's list of names, parameters and defaults, walked one by one."""

import inspect
from dataclasses import fields
from typing import Any

import pytest

from kvcache import paged_attention
from kvcache.paged_attention import PagedAttentionCacheManager
from paged_caches import ONE, PartitionAxis, create, sizes

REQUIRED = inspect.Parameter.empty

Parameters = dict[str, Any]
"""Names in order, with the default of each."""

_METADATA_SIZES: Parameters = {
    "batch_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
}
_PAGES: Parameters = {"quantizer": None, "kv_pages_sharding": None}
_ROWS: Parameters = {"key": REQUIRED, "value": REQUIRED, "metadata": REQUIRED}
_DOCUMENT: dict[str, Parameters] = {
    "from_dict": {"data": REQUIRED},
    "from_json": {"json_str": REQUIRED},
    "replace": {"kwargs": REQUIRED},
    "to_dict": {},
    "to_json": {"kwargs": REQUIRED},
}

FIELDS: dict[str, str] = {
    "PagedAttentionCache": "views",
    "PagedAttentionCacheMetaData": """
        partition_axis dtype batch_size num_hidden_layers num_pages_per_layer
        num_pages_per_sequence max_sequences page_size num_kv_heads
        kv_head_dim_size hbm_utilization hbm_bytes
    """,
    "PagedAttentionCacheView": """
        metadata layer_index key_pages value_pages kv_pages_sharding
    """,
    "PagedAttentionMetadata": """
        prefill_length prefill_pos prefill_page_table generate_pos
        generate_page_table
    """,
}
"""Each data class and what its constructor takes, in order, all required."""

METHODS: dict[str, dict[str, Parameters]] = {
    "PagedAttentionCache": {
        **_DOCUMENT,
        "init_cache": {"mesh": REQUIRED, "metadata": REQUIRED, **_PAGES},
        "init_empty": {"num_hidden_layers": 0},
    },
    "PagedAttentionCacheManager": {
        "alloc_hbm_pages": {"num_pages": REQUIRED},
        "alloc_prefill_hbm_pages": {"prefill_length": REQUIRED},
        "free_hbm_pages": {"pages": REQUIRED},
    },
    "PagedAttentionCacheMetaData": {
        **_DOCUMENT,
        "create": {
            "mesh": REQUIRED,
            "partition_axis": REQUIRED,
            **_METADATA_SIZES,
            "max_sequences": REQUIRED,
            "page_size": REQUIRED,
            "num_kv_heads": REQUIRED,
            "kv_head_dim_size": REQUIRED,
            "hbm_utilization": REQUIRED,
            "dtype": "bfloat16",
        },
    },
    "PagedAttentionCacheView": {
        **_DOCUMENT,
        "init": {
            "mesh": REQUIRED,
            "metadata": REQUIRED,
            "layer_index": REQUIRED,
            **_PAGES,
        },
        "concatenate_to_cache": _ROWS,
        "write_prefill_to_cache": _ROWS,
        "write_generate_to_cache": _ROWS,
    },
    "PagedAttentionMetadata": _DOCUMENT,
}
CLASS_METHODS = {
    "create",
    "from_dict",
    "from_json",
    "init",
    "init_cache",
    "init_empty",
}
EACH_METHOD = [(kind, name) for kind in METHODS for name in METHODS[kind]]


def signature(member: Any) -> Parameters:
    """A call's parameters, those of our own left out.

    Ours come behind the seed's and by name only.
    """
    parameters = inspect.signature(member).parameters.values()
    return {
        each.name: each.default
        for each in parameters
        if each.kind is not inspect.Parameter.KEYWORD_ONLY
        and each.name != "self"
    }


@pytest.mark.parametrize("kind", FIELDS)
def test_a_constructor_takes_the_seeds_fields(kind: str) -> None:
    found = signature(getattr(paged_attention, kind))
    assert list(found) == FIELDS[kind].split()
    assert all(default is REQUIRED for default in found.values())


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_of_ours_come_last_with_defaults(kind: str) -> None:
    found = fields(getattr(paged_attention, kind))
    wanted = FIELDS[kind].split()
    assert [each.name for each in found[: len(wanted)]] == wanted
    assert all(each.kw_only for each in found[len(wanted) :])


def test_the_manager_takes_metadata() -> None:
    assert signature(PagedAttentionCacheManager) == {"metadata": REQUIRED}


@pytest.mark.parametrize(("kind", "name"), EACH_METHOD)
def test_a_method_has_the_seeds_parameters(kind: str, name: str) -> None:
    owner = getattr(paged_attention, kind)
    found = signature(getattr(owner, name))
    assert list(found.items()) == list(METHODS[kind][name].items())
    static = inspect.getattr_static(owner, name)
    assert isinstance(static, classmethod) == (name in CLASS_METHODS)
    assert inspect.getdoc(static)


@pytest.mark.parametrize(("kind", "name"), EACH_METHOD)
def test_arguments_of_ours_go_by_name_and_have_defaults(
    kind: str, name: str
) -> None:
    member = getattr(getattr(paged_attention, kind), name)
    for each in inspect.signature(member).parameters.values():
        if each.kind is inspect.Parameter.KEYWORD_ONLY:
            assert each.default is not REQUIRED


def test_the_manager_has_the_seeds_properties() -> None:
    manager = PagedAttentionCacheManager(sizes())
    assert (manager.page_size, manager.current_page_index) == (4, 0)
    assert manager.metadata == sizes()


def test_the_seeds_arguments_come_in_its_order() -> None:
    by_order = paged_attention.PagedAttentionCacheMetaData.create(
        ONE,
        PartitionAxis(),
        1,
        2,
        10,
        4,
        2,
        3,
        0.5,
        memory=paged_attention.DeviceMemory(16000),
    )
    assert by_order == create()


def test_a_field_that_is_not_there_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="num_pages"):
        sizes().replace(num_pages=3)


def test_replace_makes_a_new_one() -> None:
    before = sizes()
    after = before.replace(num_hidden_layers=5)
    assert (before.num_hidden_layers, after.num_hidden_layers) == (2, 5)
    assert after != before
    assert after.replace(num_hidden_layers=2) == before
