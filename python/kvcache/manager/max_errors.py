"""Shortages that a scheduler written for MAX catches as its own."""

# Its public home, `max.pipelines`, wants packages that few machines have.
from max._kv_core import InsufficientBlocksError

from kvcache.errors import InsufficientPagesError, RequestTooLargeError


class BlocksShortError(InsufficientPagesError, InsufficientBlocksError):
    """More pages were wanted than can be handed out."""


class RequestTooLargeForBlocksError(
    RequestTooLargeError, InsufficientBlocksError
):
    """One request wants more pages than there are; waiting does not help."""
