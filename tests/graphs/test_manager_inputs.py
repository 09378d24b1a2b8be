"""What the manager hands out goes through real graphs."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer
from max.engine import InferenceSession

from kvcache import PagedKVCacheManager
from kvcache.errors import RequestStateError
from managers import HOST, claimed, make


@pytest.fixture(scope="module")
def session() -> InferenceSession:
    return InferenceSession(devices=[HOST])


def offsets(*values: int) -> SimpleNamespace:
    array = np.array(values, np.uint32)
    return SimpleNamespace(input_row_offsets=Buffer.from_numpy(array))


def fetched(manager: PagedKVCacheManager, num_steps: int) -> Any:
    batch = [claimed(manager, 40), claimed(manager, range(100, 103))]
    for request in batch:
        assert manager.maybe_reserve(request, num_steps)
    return manager.fetch(batch, num_steps)


def test_cache_lengths_grow_over_five_steps(session: InferenceSession) -> None:
    manager = make(session=session)
    inputs = fetched(manager, 5)
    first = inputs[0]
    lengths, max_lengths = [], []
    for rows in (offsets(0, 40, 43), *[offsets(0, 1, 2)] * 3):
        inputs = manager.increment_cache_lengths(inputs, rows)
        lengths.append(inputs[0].cache_lengths.to_numpy().tolist())
        max_lengths.append(inputs[0].max_lengths.to_numpy().tolist())
    assert lengths == [[40, 3], [41, 4], [42, 5], [43, 6]]
    assert max_lengths[0] == [[1, 41], [1, 42], [1, 43], [1, 44]]
    assert max_lengths[3] == [[1, 44]]
    assert inputs[0].blocks is first.blocks
    assert inputs[0].lookup_table is first.lookup_table
    assert first.cache_lengths.to_numpy().tolist() == [0, 0]
    assert first.max_lengths.shape[0] == 5


def test_no_step_follows_the_last_one_fetched(
    session: InferenceSession,
) -> None:
    manager = make(session=session)
    inputs = fetched(manager, 2)
    inputs = manager.increment_cache_lengths(inputs, offsets(0, 40, 43))
    with pytest.raises(RequestStateError, match="further step"):
        manager.increment_cache_lengths(inputs, offsets(0, 1, 2))


def test_a_manager_without_a_session_makes_one() -> None:
    manager = make()
    rows = offsets(0, 40, 43)
    rows.input_row_offsets = [rows.input_row_offsets]  # One per device.
    inputs = manager.increment_cache_lengths(fetched(manager, 2), rows)
    assert inputs[0].cache_lengths.to_numpy().tolist() == [40, 3]
    assert manager.session is not None
