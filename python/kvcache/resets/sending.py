"""Tells every manager of an endpoint base to forget its cached prefixes."""

import time
from types import ModuleType
from typing import Any

from kvcache.errors import ResetNotDeliveredError
from kvcache.resets.endpoints import EndpointBase
from kvcache.resets.message import RESET_REQUEST
from kvcache.resets.zeromq import zeromq


def request_prefix_cache_reset(
    endpoint_base: str, *, timeout: float = 5.0
) -> int:
    """Asks each manager that listens to reset its prefix cache.

    A manager does so at its next `fetch` or `maybe_reserve`, for all of its
    replicas. When this returns the request is on its way to each of them, and
    cannot be lost unless its process ends.

    Args:
        endpoint_base: The managers' `zmq_endpoint_base`.
        timeout: Seconds to wait, for all of them together.

    Returns:
        How many managers were told; 0 if none listens.

    Raises:
        InvalidParamsError: If `endpoint_base` is not one.
        MissingPackageError: If `pyzmq` is not installed.
        ResetNotDeliveredError: If somebody listens and takes no message. The
            others were told.
    """
    base, zmq = EndpointBase(endpoint_base), zeromq()
    deadline = time.monotonic() + timeout
    places = base.taken_places()
    context = zmq.Context()
    try:
        sockets = [_connected(zmq, context, place) for place in places]
        missed = [
            place
            for place, socket in zip(places, sockets, strict=True)
            if not _send(zmq, socket, deadline)
        ]
    finally:
        context.destroy(linger=_milliseconds(deadline))
    if missed:
        raise ResetNotDeliveredError(
            f"wanted {len(places)} managers to take a reset request within "
            f"{timeout} s, got no answer from {', '.join(missed)}"
        )
    return len(places)


def _connected(zmq: ModuleType, context: Any, place: str) -> Any:
    socket = context.socket(zmq.PUSH)
    socket.immediate = True  # A message waits for a peer, not in a queue.
    socket.ipv6 = "[" in place
    socket.connect(place)
    return socket


def _send(zmq: ModuleType, socket: Any, deadline: float) -> bool:
    socket.sndtimeo = _milliseconds(deadline)
    try:
        socket.send(RESET_REQUEST)
    except zmq.Again:
        return False
    return True


def _milliseconds(deadline: float) -> int:
    return max(1, int(1000 * (deadline - time.monotonic())))
