"""Our manager has each member that MAX's schedulers may ask for."""

import inspect
from typing import Any

import pytest
from max.nn.kv_cache import BatchCharacteristics

import beside_max
from beside_max import CONTEXT, THEIRS, Managers, pair
from kvcache import PagedKVCacheManager, RequestContext
from kvcache.manager.max_values import (
    CompletedTransfer,
    Occupancy,
    PrefixCacheHits,
)

INTERFACE: Any = THEIRS.PagedKVCacheManagerInterface
CALLS = sorted(
    name
    for name, member in vars(INTERFACE).items()
    if inspect.isfunction(member) and not name.startswith("_")
)


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [
        (p.name, p.kind, p.default)
        for p in inspect.signature(function).parameters.values()
    ]


def test_the_interface_is_the_one_that_is_known() -> None:
    assert set(CALLS) <= {*INTERFACE.__abstractmethods__, "pressure_pct"}
    assert len(CALLS) > 20


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_max_s_may_be_made_of_ours(name: str) -> None:
    theirs = parameters(getattr(INTERFACE, name))
    mine = parameters(getattr(PagedKVCacheManager, name))
    if name in {"contains", "release", "step"}:  # The seed's names are others.
        assert [p[1:] for p in mine] == [p[1:] for p in theirs]
    else:
        assert mine == theirs


def test_properties_are_there() -> None:
    for name, member in vars(INTERFACE).items():
        if isinstance(member, property):
            ours = getattr(PagedKVCacheManager, name)
            assert isinstance(ours, property), name


def test_construction_takes_what_max_s_takes() -> None:
    theirs = parameters(THEIRS.PagedKVCacheManager.__init__)[1:]
    mine = parameters(PagedKVCacheManager.from_max)
    assert {p[0] for p in theirs} <= {p[0] for p in mine}


def test_answers_have_the_members_of_max_s() -> None:
    connector = beside_max.CONNECTOR
    pairs = [
        (Occupancy(free=3, total=8), connector.BlockCount(free=3, total=8)),
        (Occupancy(free=0, total=0), connector.ByteCount(free=0, total=0)),
    ]
    for mine, theirs in pairs:
        for name in ("free", "total", "used", "used_pct", "free_pct"):
            assert getattr(mine, name) == getattr(theirs, name)
    assert isinstance(CompletedTransfer(), connector.KVTransfer)
    assert PrefixCacheHits(2, 3).total_blocks == 5


def test_a_text_context_is_a_request() -> None:
    assert isinstance(pair([1, 2], "a").mine, RequestContext)


def test_a_hit_is_noted_on_the_request() -> None:
    managers = Managers(num_pages=8)
    noted = []
    for name in "ab":
        request = pair(range(40), name)
        managers.both("claim", request)
        assert managers.alloc(request)
        noted.append(request.mine.cached_prefix_length)
        managers.inputs([request])
        managers.advance(request, 7)
    assert noted == [0, 32]


def test_a_context_that_fills_a_batch_up_lies_on_the_null_page() -> None:
    managers = Managers(num_pages=8, is_checking=False)  # MAX counts it wrong.
    dummy = beside_max.Pair(
        *(
            CONTEXT.TextContext.new_padding_context(
                max_length=64, model_name=""
            )
            for _ in range(2)
        )
    )
    request = pair(range(20), "a")
    managers.both("claim", request)
    managers.both("alloc_dummy", dummy)
    assert managers.alloc(request)
    beside_max.assert_equal_inputs(*managers.inputs([dummy, request]))
    rows = managers.both("get_req_blocks_per_leaf", dummy)
    assert rows == [{"full_group": [8]}] * 2
    managers.both("release", dummy)
    assert managers.both("contains", dummy) == [False, False]


@pytest.mark.parametrize("call", ["alloc", "release", "num_req_blocks", "step"])
def test_a_request_that_is_not_claimed_is_a_value_error_of_both(
    call: str,
) -> None:
    managers = Managers(num_pages=8)
    request = pair(range(20), "a")
    for manager, context in (
        (managers.mine, request.mine),
        (managers.theirs, request.theirs),
    ):
        with pytest.raises(ValueError, match="claimed"):
            getattr(manager, call)(context)


def test_widths_and_shapes_that_are_asked_for_are_equal() -> None:
    managers = Managers(num_pages=30)
    request = pair(range(20), "a")
    managers.both("claim", request)
    assert managers.alloc(request)
    shape = BatchCharacteristics(2, 32, 64)
    for options in (
        {"max_cache_length": 400},
        {"batch_characteristics": shape},
        {"max_cache_length": 20, "batch_characteristics": shape},
    ):
        beside_max.assert_equal_inputs(*managers.inputs([request], **options))
    for options in ({"max_cache_length": 481}, {"max_cache_length": 16}):
        for manager, context in (
            (managers.mine, request.mine),
            (managers.theirs, request.theirs),
        ):
            with pytest.raises(ValueError, match=r"\d"):
                manager.runtime_inputs([[context]], **options)


def test_a_batch_for_no_replica_is_a_value_error_of_both() -> None:
    managers = Managers(num_pages=8)
    for manager in (managers.mine, managers.theirs):
        with pytest.raises(ValueError, match="replicas"):
            manager.runtime_inputs([])
