"""One thread changes a core; others are told, and may read counts."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvcache import Request
from kvcache.core.native import NativeCore
from kvcache.core.running import StepMemory
from kvcache.core.values import Batch
from kvcache.errors import WrongThreadError
from managers import make


def elsewhere(call: Callable[[], object]) -> object:
    """Calls in another thread; returns what came back or was raised."""
    answers: list[object] = []

    def run() -> None:
        try:
            answers.append(call())
        except WrongThreadError as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return answers[0]


def owned() -> tuple[NativeCore, Any]:
    core = NativeCore(8, 4, 3, enable_prefix_caching=True)
    batch = core.open_batch(
        StepMemory(
            np.zeros(2, np.uint32),
            np.zeros((2, 4), np.uint32),
            np.zeros((1, 2), np.uint32),
        )
    )
    batch.admit(b"", [np.arange(5)])
    return core, batch


ONE = Batch(np.array([0]), np.array([0]), np.array([1]), [np.arange(5)])
CALLS: dict[str, Callable[[NativeCore, Any], object]] = {
    "claim": lambda core, _: core.claim(b""),
    "release": lambda core, _: core.release(0),
    "fork": lambda core, _: core.fork(0, 4),
    "truncate": lambda core, _: core.truncate(0, 0),
    "set_retention": lambda core, _: core.set_retention(0, priority=10),
    "tick": lambda core, _: core.tick(1.0),
    "adopt": lambda core, _: core.adopt(ONE),
    "reserve": lambda core, _: core.reserve(ONE, num_steps=1),
    "check_reserve": lambda core, _: core.check_reserve(ONE, num_steps=1),
    "commit": lambda core, _: core.commit(ONE),
    "drop": lambda core, _: core.drop(0, 0),
    "forget_cached": lambda core, _: core.forget_cached(),
    "pages": lambda core, _: core.pages(0),
    "fill": lambda core, _: core.fill(
        np.array([0]), np.array([1]), np.zeros((1, 4), np.uint32)
    ),
    "evict": lambda core, _: core.evict(0),
    "probe": lambda core, _: core.probe(b"", np.arange(5)),
    "evicted_at": lambda core, _: core.evicted_at(b"", np.arange(5)),
    "admit": lambda _, batch: batch.admit(b"", [np.arange(3)]),
    "settle": lambda _, batch: batch.settle(),
    "advance": lambda _, batch: batch.advance(np.array([7])),
    "leave": lambda _, batch: batch.leave([0]),
}


@pytest.mark.parametrize("name", CALLS)
def test_another_thread_is_told_and_changes_nothing(name: str) -> None:
    core, batch = owned()
    answer = elsewhere(lambda: CALLS[name](core, batch))
    assert isinstance(answer, WrongThreadError), answer
    assert core.num_free == 6
    assert batch.pages(0).tolist() == [0, 1]
    core.check()


def test_counts_are_read_from_anywhere() -> None:
    core, _ = owned()
    assert elsewhere(lambda: (core.num_free, core.num_evicted)) == (6, 0)


def test_the_first_change_makes_the_owner_not_the_construction() -> None:
    manager = make()
    request = Request(range(20))

    def serve() -> bool:
        manager.external_claim(request.request_id)
        return manager.maybe_reserve(request)

    assert elsewhere(serve) is True
    assert manager.num_free_blocks == 8
    with pytest.raises(WrongThreadError, match="thread"):
        manager.release(request.request_id)
