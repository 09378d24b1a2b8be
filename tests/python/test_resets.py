"""Reset requests over real sockets, between threads and processes."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import zmq

from kvcache.errors import (
    InvalidParamsError,
    MissingPackageError,
    ResetNotDeliveredError,
)
from kvcache.manager import PagedKVCacheManager
from kvcache.resets import ResetInbox, request_prefix_cache_reset
from kvcache.resets.endpoints import NUM_PORTS, EndpointBase
from kvcache.resets.message import RESET_REQUEST
from managers import claimed, compute, make, make_replicas
from paths import ROOT


@pytest.fixture
def base() -> Iterator[str]:
    """A base whose path is short enough for a socket."""
    with TemporaryDirectory() as folder:
        yield f"ipc://{folder}/kv"


@pytest.fixture
def tcp_base() -> str:
    """A base whose ports are all free just now."""
    for port in range(20000, 30000, NUM_PORTS):
        base = EndpointBase(f"tcp://127.0.0.1:{port}")
        if not base.taken_places():
            return base.text
    raise AssertionError("wanted free ports, found none")


def is_told(inbox: ResetInbox, seconds: float = 5.0) -> bool:
    """Polls until a request is there, as a loop's steps would."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if inbox.poll():
            return True
        time.sleep(0.005)
    return False


def send(endpoint: str, *messages: bytes | list[bytes]) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.linger = 5000
        socket.connect(endpoint)
        for message in messages:
            parts = [message] if isinstance(message, bytes) else message
            socket.send_multipart(parts)


def warm(manager: PagedKVCacheManager, replica: int = 0) -> None:
    request = claimed(manager, 40, on=replica)
    compute(manager, request)
    manager.release(request.request_id)


def is_cached(manager: PagedKVCacheManager, replica: int = 0) -> bool:
    request = claimed(manager, 40, on=replica)
    hit = manager.adopt_prefix(request)
    manager.release(request.request_id)
    return hit > 0


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_a_request_reaches_every_inbox(
    scheme: str, base: str, tcp_base: str
) -> None:
    base = base if scheme == "ipc" else tcp_base
    inboxes = [ResetInbox(base) for _ in range(3)]
    assert len({inbox.endpoint for inbox in inboxes}) == 3
    for _ in range(2):
        assert request_prefix_cache_reset(base) == 3
        assert all(is_told(inbox) for inbox in inboxes)
    assert not any(inbox.poll() for inbox in inboxes)
    inboxes[1].close()
    assert request_prefix_cache_reset(base) == 2
    assert is_told(inboxes[0])
    assert is_told(inboxes[2])
    for inbox in inboxes:
        inbox.close()
    assert request_prefix_cache_reset(base) == 0


def test_every_replica_of_every_manager_forgets(base: str) -> None:
    managers = [
        make_replicas(2, zmq_endpoint_base=base),
        make(zmq_endpoint_base=base),
    ]
    for manager in managers:
        for replica in range(manager.num_replicas):
            warm(manager, replica)
    assert request_prefix_cache_reset(base) == 2
    for manager in managers:
        deadline = time.monotonic() + 5
        while is_cached(manager) and time.monotonic() < deadline:
            manager.fetch([])
            time.sleep(0.005)
        for replica in range(manager.num_replicas):
            assert not is_cached(manager, replica)


def test_reserving_looks_into_the_inbox_too(base: str) -> None:
    manager = make(zmq_endpoint_base=base)
    warm(manager)
    request = claimed(manager, range(100, 105))
    assert request_prefix_cache_reset(base) == 1
    deadline = time.monotonic() + 5
    while is_cached(manager) and time.monotonic() < deadline:
        assert manager.maybe_reserve(request)
    assert not is_cached(manager)


def test_managers_of_other_processes_forget(base: str) -> None:
    code = f"""
import sys, time
from managers import make
from test_resets import is_cached, warm
manager = make(zmq_endpoint_base={base!r})
warm(manager)
print(is_cached(manager), flush=True)
deadline = time.monotonic() + 60
while is_cached(manager) and time.monotonic() < deadline:
    manager.fetch([])
    time.sleep(0.005)
print(is_cached(manager), flush=True)
"""
    path = [str(ROOT / "tests"), str(Path(__file__).parent), *sys.path]
    children = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path[:0] = {path}\n{code}",
            ],
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [child.stdout for child in children]
    assert [out.readline() for out in outputs if out] == ["True\n"] * 2
    assert request_prefix_cache_reset(base) == 2
    assert [out.readline() for out in outputs if out] == ["False\n"] * 2
    for child in children:
        child.communicate(timeout=30)
        assert child.returncode == 0


@pytest.mark.parametrize(
    "message",
    [
        b"",
        RESET_REQUEST[:-1],
        RESET_REQUEST + b"\0",
        b"\0" + RESET_REQUEST[1:],
        RESET_REQUEST[:8] + b"\2\1",
        RESET_REQUEST[:8] + b"\1\2",
        b"x" * 64,
        [RESET_REQUEST, b""],
        [RESET_REQUEST, RESET_REQUEST],
    ],
)
def test_anything_else_is_counted_and_ignored(
    message: bytes | list[bytes], base: str
) -> None:
    inbox = ResetInbox(base)
    send(inbox.endpoint, message)
    deadline = time.monotonic() + 5
    while inbox.num_ignored == 0 and time.monotonic() < deadline:
        assert not inbox.poll()
    assert inbox.num_ignored == 1
    assert request_prefix_cache_reset(base) == 1
    assert is_told(inbox)
    inbox.close()


def test_a_long_message_is_not_read(base: str) -> None:
    inbox = ResetInbox(base)
    send(inbox.endpoint, b"x" * 65)
    assert request_prefix_cache_reset(base) == 1
    assert is_told(inbox)
    assert not is_told(inbox, 0.1)
    assert inbox.num_ignored == 0
    inbox.close()


def test_a_manager_counts_what_it_ignores(base: str) -> None:
    manager = make(zmq_endpoint_base=base)
    warm(manager)
    assert manager._inbox is not None
    send(manager._inbox.endpoint, b"reset, please")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        manager.fetch([])
        if manager.num_ignored_reset_messages:
            break
    assert manager.num_ignored_reset_messages == 1
    assert is_cached(manager)


def test_what_a_killed_process_left_is_passed_over(base: str) -> None:
    inbox = ResetInbox(base)
    path = Path(inbox.endpoint.removeprefix("ipc://"))
    (path.parent / "kv-reset_prefix_cache-0000").touch()
    code = (
        f"import sys; sys.path[:0] = {sys.path}\n"
        f"import os; from kvcache.resets import ResetInbox\n"
        f"inbox = ResetInbox({base!r}); os._exit(0)"
    )
    subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), check=True
    )
    assert len(list(path.parent.iterdir())) == 3
    assert request_prefix_cache_reset(base) == 1
    assert is_told(inbox)
    inbox.close()


def test_somebody_who_takes_no_message_is_named(tcp_base: str) -> None:
    host, _, port = tcp_base.removeprefix("tcp://").rpartition(":")
    with socket.create_server((host, int(port))):
        inbox = ResetInbox(tcp_base)
        with pytest.raises(ResetNotDeliveredError, match=f"from {tcp_base}$"):
            request_prefix_cache_reset(tcp_base, timeout=0.5)
        assert is_told(inbox)
        inbox.close()


def test_a_base_has_so_many_ports(tcp_base: str) -> None:
    inboxes = [ResetInbox(tcp_base) for _ in range(NUM_PORTS)]
    with pytest.raises(InvalidParamsError, match="can be bound"):
        ResetInbox(tcp_base)
    assert request_prefix_cache_reset(tcp_base) == len(inboxes)
    for inbox in inboxes:
        inbox.close()


def test_a_path_that_cannot_be_bound_is_refused(base: str) -> None:
    for bad, message in (
        (f"{base}/nowhere", "can be bound"),
        (f"{base}{'x' * 100}", "at most 107 bytes"),
    ):
        with pytest.raises(InvalidParamsError, match=message):
            make(zmq_endpoint_base=bad)


def test_other_machines_are_let_in_on_demand_only(tcp_base: str) -> None:
    remote = tcp_base.replace("127.0.0.1", "0.0.0.0")
    with pytest.raises(InvalidParamsError, match="zmq_allow_remote=True"):
        make(zmq_endpoint_base=remote)
    manager = make(zmq_endpoint_base=remote, zmq_allow_remote=True)
    assert request_prefix_cache_reset(tcp_base) == 1
    del manager


def test_an_address_may_be_of_the_sixth_version(tcp_base: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("wanted the address ::1, this machine has none")
    base = tcp_base.replace("127.0.0.1", "[::1]")
    inbox = ResetInbox(base)
    assert request_prefix_cache_reset(base) == 1
    assert is_told(inbox)
    inbox.close()


def test_a_manager_gives_its_endpoint_back(base: str) -> None:
    manager = make(zmq_endpoint_base=base)
    assert request_prefix_cache_reset(base) == 1
    del manager
    assert request_prefix_cache_reset(base) == 0


def test_without_a_prefix_cache_nothing_is_opened(base: str) -> None:
    manager = make(zmq_endpoint_base=base, caching=False)
    assert request_prefix_cache_reset(base) == 0
    assert manager.num_ignored_reset_messages == 0


def test_a_missing_package_is_named(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zmq", None)
    for call in (ResetInbox, request_prefix_cache_reset):
        with pytest.raises(MissingPackageError, match=r"kvcache\[zmq\]"):
            call(base)
