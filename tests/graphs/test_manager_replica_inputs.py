"""What several replicas hand out goes on from step to step on the device."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer
from max.engine import InferenceSession

from kvcache import PagedKVCacheManager, Request
from kvcache.errors import RequestStateError
from managers import HOST, REPLICAS, claimed, make_replicas


@pytest.fixture(scope="module")
def session() -> InferenceSession:
    return InferenceSession(devices=[HOST])


@pytest.fixture(scope="module")
def manager(session: InferenceSession) -> PagedKVCacheManager:
    """Three replicas of two shards; its increment graph is compiled once."""
    return make_replicas(*REPLICAS, num_pages=20, session=session)


@pytest.fixture
def batch(manager: PagedKVCacheManager) -> Iterator[list[Request]]:
    """Two requests on replica 0, none on replica 1, one on replica 2."""
    requests = [
        claimed(manager, range(start, start + length), on=on)
        for start, length, on in ((0, 40, 0), (100, 3, 0), (200, 17, 2))
    ]
    yield requests
    for request in requests:
        manager.release(request.request_id)


def step_of(
    manager: PagedKVCacheManager, batch: list[Request], *rows: int
) -> Any:
    return SimpleNamespace(
        input_row_offsets=Buffer.from_numpy(np.array(rows, np.uint32)),
        data_parallel_splits=manager.get_data_parallel_splits(batch),
    )


def lengths(inputs: Any) -> list[list[int]]:
    return [each.cache_lengths.to_numpy().tolist() for each in inputs]


def test_lengths_of_each_replica_grow_by_its_own_rows(
    manager: PagedKVCacheManager, batch: list[Request]
) -> None:
    fetched = manager.fetch(batch, 4)
    steps = [step_of(manager, batch, 0, 40, 43, 60)]
    steps += [step_of(manager, batch, 0, 1, 2, 3)] * 2
    inputs, seen = fetched, []
    for step in steps:
        inputs = manager.increment_cache_lengths(inputs, step)
        assert lengths(inputs)[::2] == lengths(inputs)[1::2]
        seen.append(lengths(inputs)[::2])
    assert seen == [
        [[40, 3], [], [17]],
        [[41, 4], [], [18]],
        [[42, 5], [], [19]],
    ]
    assert inputs[0].max_lengths.to_numpy().tolist() == [[1, 43]]
    assert inputs[5].max_lengths.to_numpy().tolist() == [[1, 20]]
    for before, after in zip(fetched, inputs, strict=True):
        assert after.blocks is before.blocks
        assert after.lookup_table is before.lookup_table
        assert before.max_lengths.shape[0] == 4
    assert lengths(fetched)[::2] == [[0, 0], [], [0]]
    with pytest.raises(RequestStateError, match="further step"):
        manager.increment_cache_lengths(inputs, steps[-1])


def test_rows_that_are_split_otherwise_are_refused(
    manager: PagedKVCacheManager, batch: list[Request]
) -> None:
    fetched = manager.fetch(batch, 2)
    step = step_of(manager, batch, 0, 40, 43, 60)
    with pytest.raises(RequestStateError, match="inputs of 6 devices, got 5"):
        manager.increment_cache_lengths(fetched[:-1], step)
    with pytest.raises(RequestStateError, match="wanted 4 row offsets, got 3"):
        manager.increment_cache_lengths(
            fetched, step_of(manager, batch, 0, 40, 43)
        )
    step.data_parallel_splits = np.array([0, 1, 2, 3])
    with pytest.raises(RequestStateError, match=r"\[0, 2, 2, 3\], got \[0, 1"):
        manager.increment_cache_lengths(fetched, step)
    del step.data_parallel_splits
    with pytest.raises(RequestStateError, match="wanted data_parallel_splits"):
        manager.increment_cache_lengths(fetched, step)


def test_shards_of_one_replica_need_no_splits() -> None:
    manager = make_replicas(1, 2)
    request = claimed(manager, 40)
    rows = np.array([0, 40], np.uint32)
    step = SimpleNamespace(input_row_offsets=[Buffer.from_numpy(rows)])
    inputs = manager.increment_cache_lengths(manager.fetch([request], 2), step)
    assert lengths(inputs) == [[40], [40]]
    assert manager.session is not None
