"""Pages that are copied from pool to pool."""

from types import SimpleNamespace

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType

from kvcache import KVCacheParams
from kvcache.core.interface import Move
from kvcache.manager.device import DevicePool
from kvcache.manager.moving import Run
from managers import HOST


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_pools_of_every_type_are_copied(dtype: str) -> None:
    params = KVCacheParams(dtype, 1, 8, page_size=2)
    one, two = (
        DevicePool(params, 4, num_layers=1, page_size=2, device=HOST)
        for _ in range(2)
    )
    page_bytes = params.bytes_per_page(1)
    raw = np.arange(5 * page_bytes, dtype=np.uint8).reshape(
        one.blocks.shape[0], -1
    )
    filled = Buffer.from_numpy(raw).view(one.blocks.dtype, one.blocks.shape)
    one.blocks.inplace_copy_from(filled)
    two.copy_from(one, [3, 0, 1], [0, 2, 3])
    found = two.blocks.view(DType.uint8, raw.shape).to_numpy()
    np.testing.assert_array_equal(found[[0, 2, 3]], raw[[3, 0, 1]])
    assert not found[[1, 4]].any()


def test_a_copy_between_devices_lets_their_queues_wait() -> None:
    waits: list[tuple[str, str]] = []

    class Queue:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_for(self, other: "Queue") -> None:
            waits.append((self.name, other.name))

    params = KVCacheParams("float32", 1, 8, page_size=2)
    one, two = (
        DevicePool(params, 4, num_layers=1, page_size=2, device=HOST)
        for _ in range(2)
    )
    one.blocks.to_numpy()[1] = 5
    two.copy_from(one, [1], [2])
    assert waits == []
    for name, pool in (("source", one), ("target", two)):
        queue = Queue(name)
        pool.device = SimpleNamespace(default_queue=queue)  # type: ignore[assignment]
    two.copy_from(one, [1], [3])
    assert waits == [("target", "source"), ("source", "target")]
    assert two.blocks.to_numpy()[:, 0, 0, 0, 0, 0].tolist() == [0, 0, 5, 5, 0]


@pytest.mark.parametrize("way", ["moved", "copied over"])
def test_copies_on_the_host_are_done_before_anyone_reads(way: str) -> None:
    params = KVCacheParams("float32", 1, 256, page_size=4096)
    one, two = (
        DevicePool(
            params,
            4,
            num_layers=1,
            page_size=4096,
            device=HOST,
            num_host_pages=1,
        )
        for _ in range(2)
    )
    one.blocks.to_numpy()[0] = 5
    seen = (one if way == "moved" else two).blocks.to_numpy()
    for page in range(1, 4):
        if way == "moved":
            one.copy_runs(Move.COPY, [Run(0, page, 1)])
        else:
            two.copy_from(one, [0], [page])
        # A view from before waits for nothing, as a graph on the CPU.
        assert (seen[page] == 5).all()
