"""Where the managers of one endpoint base listen, each at a place of its own.

A socket that several managers share would hand a request to one of them. So
each manager has its own endpoint, and who sends a request finds them all: on
`ipc` they are files that begin alike, on `tcp` ports that follow each other.
"""

import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape
from ipaddress import ip_address
from pathlib import Path

from kvcache.errors import InvalidParamsError

_SUFFIX = "-reset_prefix_cache"
_MAX_PATH_BYTES = 107
NUM_PORTS = 16
"""Ports of a `tcp` base, and so the most managers that it can have."""


@dataclass(frozen=True, slots=True)
class EndpointBase:
    """What the managers' endpoints have in common.

    Raises:
        InvalidParamsError: If it is neither `ipc://PATH` nor
            `tcp://ADDRESS:PORT` with a numeric address.
    """

    text: str
    """As it was given."""

    def __post_init__(self) -> None:
        """Checks the form."""
        scheme, found, rest = self.text.partition("://")
        is_ipc = scheme == "ipc" and bool(rest) and not rest.startswith("@")
        if not found or not (is_ipc or (scheme == "tcp" and self._is_tcp())):
            raise InvalidParamsError(
                f"wanted ipc://PATH or tcp://ADDRESS:PORT with a numeric "
                f"address as zmq_endpoint_base, got {self.text!r}"
            )

    @property
    def is_ipc(self) -> bool:
        """Whether it is a path."""
        return self.text.startswith("ipc:")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.is_ipc or ip_address(self._address[0]).is_loopback

    def free_places(self) -> Iterator[str]:
        """Yields endpoints that a manager may try to bind, in order.

        Raises:
            InvalidParamsError: If a path is too long for a socket.
        """
        if not self.is_ipc:
            yield from self._tcp_places()
            return
        endpoint = f"{self.text}{_SUFFIX}-{secrets.token_hex(4)}"
        path = endpoint.removeprefix("ipc://")
        if len(path.encode()) > _MAX_PATH_BYTES:
            raise InvalidParamsError(
                f"wanted a path of at most {_MAX_PATH_BYTES} bytes for a "
                f"socket, got {path!r}"
            )
        yield endpoint

    def taken_places(self) -> list[str]:
        """Returns the endpoints where somebody listens now.

        What a process left behind when it was killed is not among them.
        """
        if self.is_ipc:
            path = Path(self.text.removeprefix("ipc://") + _SUFFIX)
            found = path.parent.glob(f"{escape(path.name)}-*")
            return [f"ipc://{p}" for p in sorted(found) if _listens(str(p))]
        host, port = self._address
        taken = (_accepts(host, port + i) for i in range(NUM_PORTS))
        pairs = zip(self._tcp_places(), taken, strict=True)
        return [place for place, is_taken in pairs if is_taken]

    @property
    def _address(self) -> tuple[str, int]:
        host, _, port = self.text.removeprefix("tcp://").rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def _is_tcp(self) -> bool:
        try:
            host, port = self._address
            ip_address(host)
        except ValueError:
            return False
        return 0 < port <= 65535 - NUM_PORTS

    def _tcp_places(self) -> Iterator[str]:
        head, _, _ = self.text.rpartition(":")
        _, port = self._address
        return (f"{head}:{port + place}" for place in range(NUM_PORTS))


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except TimeoutError:
            return True  # Somebody is there, and busy.
        except OSError:
            return False
    return True


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True
