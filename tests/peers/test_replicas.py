"""Several replicas and shards: both managers tell graphs the same."""

from typing import Any

import numpy as np
import pytest
from max.graph import DeviceRef

from beside_max import Managers, Pair, assert_equal_inputs, pair

TWO: dict[str, Any] = {"devices": [DeviceRef.CPU()] * 2, "n_kv_heads": 2}


def inputs(managers: Managers, batches: list[list[Pair]]) -> list[Any]:
    """Each device's inputs of both."""
    mine = managers.mine.runtime_inputs(
        [[p.mine for p in batch] for batch in batches]
    )
    theirs = managers.theirs.runtime_inputs(
        [[p.theirs for p in batch] for batch in batches]
    )
    return list(zip(mine, theirs, strict=True))


@pytest.mark.parametrize("copies", [True, False])
def test_replicas_are_fed_alike(copies: bool) -> None:
    managers = Managers(
        num_pages=16,
        data_parallel_degree=2,
        enable_dp_cross_replica_prefix_copy=copies,
        **TWO,
    )
    requests = [pair(range(n), f"{n}") for n in (40, 50, 20)]
    for request, replica in zip(requests, (1, 0, 0), strict=True):
        managers.both("claim", request, replica)
        assert managers.alloc(request)
        batches: list[list[Pair]] = [[], []]
        batches[replica].append(request)
        for mine, theirs in inputs(managers, batches):
            assert_equal_inputs(mine, theirs)
        managers.advance(request, 7)
    assert requests[1].mine.cached_prefix_length == (32 if copies else 0)
    for request in requests:
        assert managers.alloc(request)
    both = inputs(managers, [requests[1:], requests[:1]])
    assert len(both) == 2
    for mine, theirs in both:
        assert_equal_inputs(mine, theirs)
    for replica in range(2):
        counts = [
            manager.block_count(replica).free
            for manager in (managers.mine, managers.theirs)
        ]
        assert counts[0] == counts[1]


def test_shards_are_fed_alike() -> None:
    managers = Managers(num_pages=16, **TWO)
    request = pair(range(40), "a")
    managers.both("claim", request)
    assert managers.alloc(request)
    both = inputs(managers, [[request]])
    assert len(both) == 2
    for mine, theirs in both:
        assert mine.kv_blocks.shape[4] == 1
        assert_equal_inputs(mine, theirs)
    pages = managers.mine.get_device_buffer(0).values
    assert len(pages) == 2
    np.testing.assert_array_equal(pages[0].to_numpy(), pages[1].to_numpy())


def test_a_dummy_lies_on_the_replica_that_is_named() -> None:
    managers = Managers(
        num_pages=16, data_parallel_degree=2, is_checking=False, **TWO
    )
    request, dummy = pair(range(40), "a"), pair([0], "dummy")
    managers.both("claim", request, 0)
    managers.both("alloc_dummy", dummy, 1)
    assert managers.alloc(request)
    for mine, theirs in inputs(managers, [[request], [dummy]]):
        assert_equal_inputs(mine, theirs)
