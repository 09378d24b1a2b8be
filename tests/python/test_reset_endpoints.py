"""What an endpoint base may look like, and what follows from it."""

import pytest

from kvcache.errors import InvalidParamsError
from kvcache.resets import ResetInbox, request_prefix_cache_reset
from kvcache.resets.endpoints import NUM_PORTS, EndpointBase


@pytest.mark.parametrize(
    "base",
    [
        "",
        "kv",
        "ipc://",
        "ipc://@abstract",
        "inproc://kv",
        "tcp://localhost:5555",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65535",
        "tcp://*:5555",
    ],
)
def test_a_base_of_another_form_is_refused(base: str) -> None:
    for call in (ResetInbox, request_prefix_cache_reset):
        with pytest.raises(InvalidParamsError, match="as zmq_endpoint_base"):
            call(base)


@pytest.mark.parametrize(
    ("base", "is_local"),
    [
        ("ipc:///tmp/kv", True),
        ("ipc://kv", True),
        ("tcp://127.0.0.1:5555", True),
        ("tcp://127.8.0.1:5555", True),
        ("tcp://[::1]:5555", True),
        ("tcp://0.0.0.0:5555", False),
        ("tcp://[::]:5555", False),
        ("tcp://192.0.2.1:5555", False),
    ],
)
def test_paths_and_loopback_are_local(base: str, is_local: bool) -> None:
    assert EndpointBase(base).is_local == is_local


def test_ports_follow_each_other() -> None:
    places = list(EndpointBase("tcp://[::1]:5000").free_places())
    assert places == [f"tcp://[::1]:{5000 + i}" for i in range(NUM_PORTS)]


def test_paths_are_never_the_same() -> None:
    base = EndpointBase("ipc:///tmp/kv")
    places = {place for _ in range(9) for place in base.free_places()}
    assert len(places) == 9
    for place in places:
        assert place.startswith("ipc:///tmp/kv-reset_prefix_cache-")
