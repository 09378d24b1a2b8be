"""Where a manager is told to forget its cached prefixes."""

import weakref
from typing import Any

from kvcache.errors import InvalidParamsError
from kvcache.resets.endpoints import EndpointBase
from kvcache.resets.message import MAX_MESSAGE_BYTES, RESET_REQUEST
from kvcache.resets.zeromq import zeromq

_MAX_WAITING = 64


class ResetInbox:
    """A socket of its own, polled and never waited for.

    Messages are compared with the one request that there is; nothing of them
    is parsed, and what is longer than `MAX_MESSAGE_BYTES` is not even read.

    Args:
        endpoint_base: What the endpoints of all managers begin with:
            `ipc://PATH`, or `tcp://ADDRESS:PORT`, which stands for that port
            and the fifteen after it.
        allow_remote: Whether an address that other machines reach may be
            bound. Nobody has to identify himself there.

    Raises:
        InvalidParamsError: If the base cannot be bound, or other machines
            reach it and that is not allowed.
        MissingPackageError: If `pyzmq` is not installed.
    """

    def __init__(
        self, endpoint_base: str, *, allow_remote: bool = False
    ) -> None:
        """Binds the socket."""
        base = EndpointBase(endpoint_base)
        if not (base.is_local or allow_remote):
            raise InvalidParamsError(
                f"wanted a path or a loopback address, got {endpoint_base!r}, "
                f"which other machines reach: say so with "
                f"zmq_allow_remote=True"
            )
        self._zmq = zeromq()
        self._context = self._zmq.Context()
        self._socket = self._context.socket(self._zmq.PULL)
        self._finalizer = weakref.finalize(
            self, _close, self._socket, self._context
        )
        try:
            self.endpoint = self._bind(base)
        except BaseException:
            self.close()
            raise
        self.num_ignored = 0

    endpoint: str
    """What was bound."""
    num_ignored: int
    """Messages that were no reset request."""

    def poll(self) -> bool:
        """Returns whether a reset was asked for since the last poll."""
        is_asked = False
        for _ in range(_MAX_WAITING):
            try:
                parts = self._socket.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                break
            if parts == [RESET_REQUEST]:
                is_asked = True
            else:
                self.num_ignored += 1
        return is_asked

    def close(self) -> None:
        """Gives the endpoint back; further calls do nothing."""
        self._finalizer()

    def _bind(self, base: EndpointBase) -> str:
        self._socket.linger = 0
        self._socket.maxmsgsize = MAX_MESSAGE_BYTES
        self._socket.rcvhwm = _MAX_WAITING
        self._socket.ipv6 = "[" in base.text
        reason: Exception | None = None
        for endpoint in base.free_places():
            try:
                self._socket.bind(endpoint)
            except self._zmq.ZMQError as error:
                reason = error
            else:
                return endpoint
        raise InvalidParamsError(
            f"wanted an endpoint that can be bound, got {base.text!r}: {reason}"
        )


def _close(socket: Any, context: Any) -> None:
    socket.close()
    context.term()
