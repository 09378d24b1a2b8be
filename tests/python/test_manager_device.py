"""Pages that are copied from pool to pool."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType

from kvcache import KVCacheParams
from kvcache.core.interface import Move
from kvcache.manager import transfer as transfer_module
from kvcache.manager.device import DevicePool
from kvcache.manager.moving import Run
from kvcache.manager.transfer import PageTransfer
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


class Recorder(PageTransfer):
    """Copies on the host, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Move, list[Run]]] = []

    def copy(
        self, kind: Move, pages: Any, host_pages: Any, chosen: Any
    ) -> None:
        self.asked.append((kind, chosen))
        source, target = pages.to_numpy(), host_pages.to_numpy()
        if kind is Move.ONLOAD:
            source, target = target, source
        for run in chosen:
            for one in run.singles():
                target[one.target] = source[one.source]


def pool_with(transfer: PageTransfer | None) -> DevicePool:
    params = KVCacheParams("float32", 1, 8, page_size=1)
    return DevicePool(
        params,
        4,
        num_layers=1,
        page_size=1,
        device=HOST,
        num_host_pages=5,
        transfer=transfer,
    )


@pytest.mark.parametrize("transfer", [None, Recorder()])
def test_moves_to_the_host_and_back_number_pages_alike(
    transfer: Recorder | None,
) -> None:
    pool = pool_with(transfer)
    pool.blocks.to_numpy()[:] = np.arange(5).reshape(-1, 1, 1, 1, 1, 1)
    pool.copy_runs(Move.OFFLOAD, [Run(0, 7, 2), Run(3, 4, 1)])
    pool.blocks.to_numpy()[:] = 0
    pool.copy_runs(Move.ONLOAD, [Run(8, 0, 1), Run(4, 1, 1)])
    assert pool.blocks.to_numpy()[:, 0, 0, 0, 0, 0].tolist() == [1, 3, 0, 0, 0]
    if transfer is not None:
        assert transfer.asked == [
            (Move.OFFLOAD, [Run(0, 3, 2), Run(3, 0, 1)]),
            (Move.ONLOAD, [Run(4, 0, 1), Run(0, 1, 1)]),
        ]


def test_copies_on_the_device_are_not_transfers() -> None:
    transfer = Recorder()
    pool = pool_with(transfer)
    pool.blocks.to_numpy()[2] = 5
    pool.copy_runs(Move.COPY, [Run(2, 0, 1)])
    assert pool.blocks.to_numpy()[0, 0, 0, 0, 0, 0] == 5
    assert not transfer.asked


def test_pages_that_do_not_fit_vectors_go_one_by_one() -> None:
    transfer = Recorder()
    params = KVCacheParams("float8_e4m3fn", 1, 4, page_size=1)
    pool = DevicePool(
        params,
        4,
        num_layers=1,
        page_size=1,
        device=HOST,
        num_host_pages=1,
        transfer=transfer,
    )
    pool.copy_runs(Move.OFFLOAD, [Run(0, 4, 1)])
    assert not transfer.asked


def test_what_does_not_compile_is_reported_and_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(transfer_module, "add_transfer_graphs", refuse)
    assert PageTransfer.compiled(HOST) is None
    assert "no compiler" in caplog.text
