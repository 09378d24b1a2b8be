"""Copy engines, driven by a library that copies on the host at once."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from max.driver import Buffer

from fake_cuda import DEFAULT, STREAMS, FakeLibrary, FakeQueue, Machine
from kvcache.core.interface import Move
from kvcache.errors import DriverError
from kvcache.manager import copy_engines, cuda_driver
from kvcache.manager.copy_engines import CopyEngines, copies_of
from kvcache.manager.moving import Run, carry_out
from kvcache.manager.transfer import PageTransfer
from managers import HOST


class Launches(PageTransfer):
    """Counts what comes to the kernel."""

    def __init__(self, engines: CopyEngines | None) -> None:
        super().__init__(dict.fromkeys(("offload_pages", "onload_pages"), None))  # type: ignore[arg-type]
        self._engines = engines
        self.launched: list[int] = []

    def _launch(self, *arguments: Any) -> None:
        self.launched.append(len(arguments[-1]))


def numbered(count: int, page: int, first: int = 0) -> Buffer:
    shape = count, page
    numbers = np.arange(first, first + count * page, dtype=np.int32)
    return Buffer.from_numpy(numbers.reshape(shape))


@st.composite
def placed_runs(draw: st.DrawFn) -> tuple[int, list[Run]]:
    """Draws runs that do not overlap, and how many pages hold them."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=150))
    places = []
    for order in (
        range(len(counts)),
        draw(st.permutations(range(len(counts)))),
    ):
        begins, end = {}, 0
        for index in order:
            begins[index] = end
            end += counts[index]
        places.append(begins)
    sources, targets = places
    return sum(counts), [
        Run(sources[index], targets[index], count)
        for index, count in enumerate(counts)
    ]


@given(
    drawn=placed_runs(),
    page=st.integers(1, 7),
    kind=st.sampled_from([Move.OFFLOAD, Move.ONLOAD]),
)
def test_runs_arrive_each_in_one_copy(
    drawn: tuple[int, list[Run]], page: int, kind: Move
) -> None:
    count, chosen = drawn
    machine = Machine()
    source = numbered(count, page)
    target = numbered(count + 1, page, first=10_000)
    expected = target.to_numpy().copy()
    for run in chosen:
        for one in run.singles():
            expected[one.target] = source.to_numpy()[one.source]
    if kind is Move.OFFLOAD:
        machine.engines.copy(kind, source, target, chosen)
    else:
        machine.engines.copy(kind, target, source, chosen)
    np.testing.assert_array_equal(target.to_numpy(), expected)
    waits = {entry for entry in machine.log if entry[0] == DEFAULT}
    copies = [
        count for name, count in machine.log if DEFAULT not in (name, count)
    ]
    assert sum(copies) == len(chosen)
    assert len(waits) == len(copies) == min(16, -(-len(chosen) // 8))
    assert max(copies) - min(copies) <= 1


def test_queues_wait_before_they_copy_and_are_waited_for() -> None:
    machine = Machine()
    pages, host = numbered(17, 2), numbered(17, 2)
    machine.engines.copy(
        Move.OFFLOAD, pages, host, [Run(page, page, 1) for page in range(17)]
    )
    one, two, three = STREAMS[:3]
    assert machine.log == [
        (one, DEFAULT),
        (one, 6),
        (two, DEFAULT),
        (two, 6),
        (three, DEFAULT),
        (three, 5),
        (DEFAULT, one),
        (DEFAULT, two),
        (DEFAULT, three),
    ]


def test_addresses_pass_32_bits() -> None:
    far: Any = SimpleNamespace(
        shape=(2**20, 2**16),
        num_elements=2**36,
        dtype=SimpleNamespace(size_in_bytes=1),
        _data_ptr=lambda: 2**47,
    )
    near: Any = SimpleNamespace(**(vars(far) | {"_data_ptr": lambda: 5}))
    found = copies_of(far, near, [Run(2**20 - 3, 1, 3)])
    assert found.T.tolist() == [
        [5 + 2**16, 2**47 + (2**20 - 3) * 2**16, 3 * 2**16]
    ]


@pytest.mark.parametrize("run", [Run(3, 0, 2), Run(0, 3, 2), Run(5, 0, 1)])
def test_a_page_that_is_not_there_is_not_copied(run: Run) -> None:
    machine = Machine()
    with pytest.raises(AssertionError, match="out of range"):
        machine.engines.copy(
            Move.OFFLOAD, numbered(4, 1), numbered(4, 1), [run]
        )
    assert machine.log == []


@pytest.mark.parametrize(
    "name", ["cuStreamGetCtx", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"]
)
def test_a_refused_call_raises_its_name_and_code(name: str) -> None:
    machine = Machine()
    machine.library.refused = {name: 201}
    with pytest.raises(DriverError, match=f"wanted 0 from {name}, got 201"):
        machine.engines.copy(
            Move.OFFLOAD, numbered(4, 1), numbered(4, 1), [Run(0, 1, 1)]
        )


def test_after_a_refused_copy_the_queues_are_waited_for() -> None:
    machine = Machine()
    machine.library.refused = {"cuMemcpyBatchAsync": 719}
    machine.library.refused_stream = STREAMS[1]
    chosen = [Run(page, page, 1) for page in range(24)]
    with pytest.raises(DriverError, match="cuMemcpyBatchAsync, got 719"):
        machine.engines.copy(
            Move.ONLOAD, numbered(24, 1), numbered(24, 1), chosen
        )
    assert machine.library.current == []
    assert machine.log[-2:] == [(DEFAULT, stream) for stream in STREAMS[:2]]


@pytest.mark.parametrize(
    ("page_bytes", "runs", "pay"),
    [
        (2**16, [Run(page, page, 1) for page in range(64)], True),
        (2**16, [Run(page, page, 1) for page in range(63)], False),
        (2**15, [Run(page, page, 1) for page in range(200)], False),
        (2**15, [Run(2 * page, 2 * page, 2) for page in range(100)], True),
        (2**22, [Run(0, 0, 1)], True),
        (2**21, [Run(0, 0, 1)], False),
    ],
)
def test_engines_copy_what_is_much_and_in_large_pieces(
    page_bytes: int, runs: list[Run], pay: bool
) -> None:
    machine = Machine()
    transfer = Launches(machine.engines)
    num_pages = max(run.source + run.count for run in runs)
    pages, host = (numbered(num_pages, page_bytes // 4) for _ in "ph")
    transfer.copy(Move.OFFLOAD, pages, host, runs)
    assert bool(machine.log) == pay
    assert transfer.launched == ([] if pay else [len(runs)])


def test_engines_that_fail_are_given_up_and_no_page_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine()
    machine.library.refused = {"cuMemcpyBatchAsync": 1}
    machine.library.refused_stream = STREAMS[0]
    transfer = Launches(machine.engines)
    pages, host = numbered(4, 2**20), numbered(4, 2**20)

    def copy(kind: Move, chosen: Any) -> None:
        transfer.copy(kind, pages, host, chosen)

    moves = np.array([[Move.OFFLOAD, 0, 2], [Move.OFFLOAD, 1, 3]], np.uint32)
    for _ in "ab":
        outcome = carry_out(moves, copy)
        assert outcome.error is None
        assert not outcome.lost
    assert transfer.launched == [1, 1]
    assert caplog.text.count("cuMemcpyBatchAsync, got 1") == 1


@pytest.mark.parametrize("library", [None, SimpleNamespace()])
def test_without_the_function_there_are_no_engines(
    monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    def load(_: str) -> Any:
        if library is None:
            raise OSError("no such file")
        return library

    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", load)
    gpu: Any = SimpleNamespace(api="cuda")
    assert CopyEngines.of(gpu) is None


def test_a_device_of_another_kind_has_no_engines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find() -> None:
        pytest.fail("looked for a driver")

    monkeypatch.setattr(copy_engines.CudaDriver, "find", find)
    assert CopyEngines.of(HOST) is None


def test_each_device_has_queues_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    class Queue(FakeQueue):
        def __init__(self, device: Any) -> None:
            asked.append(device.id)
            super().__init__([], device.id)

    library = FakeLibrary([])
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(copy_engines, "DeviceQueue", Queue)
    for number in (0, 3):
        gpu: Any = SimpleNamespace(api="cuda", id=number)
        assert CopyEngines.of(gpu) is not None
    assert asked == [0] * 16 + [3] * 16
