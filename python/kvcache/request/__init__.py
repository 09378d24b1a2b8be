"""The tokens of one request, and how far they have been computed."""

from kvcache.request.context import Request, RequestContext, request_id_of
from kvcache.request.tokens import (
    TokenIds,
    Tokens,
    TokenSequence,
    chunked_of,
    lengths_of,
    places_of,
    starts_of,
    windows_of,
)

__all__ = [
    "Request",
    "RequestContext",
    "TokenIds",
    "TokenSequence",
    "Tokens",
    "chunked_of",
    "lengths_of",
    "places_of",
    "request_id_of",
    "starts_of",
    "windows_of",
]
