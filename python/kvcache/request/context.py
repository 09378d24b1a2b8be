"""Requests: what the cache asks of them, and one of our own."""

import uuid
from collections.abc import Hashable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from kvcache.request.tokens import Tokens, TokenSequence


@runtime_checkable
class RequestContext(Protocol):
    """What the cache asks of a request.

    MAX's `TextContext` fulfils it, and so does `Request`. It may also have a
    `cache_priority` and a `cache_ttl`, as `Request` describes them.
    """

    @property
    def request_id(self) -> Hashable:
        """Identifies the request."""

    @property
    def cache_salt(self) -> str | None:
        """Requests share cached pages only under equal salts."""

    @property
    def model_name(self) -> str:
        """Requests share cached pages only under equal models."""

    @property
    def tokens(self) -> TokenSequence:
        """The request's tokens."""

    def update(self, new_token: int) -> None:
        """Moves on by a chunk or, without one, by a generated token."""


class Request:
    """One sequence to compute.

    Args:
        tokens: The prompt's token ids, copied; at least one.
        request_id: Identifies the request; made up unless given.
        cache_salt: Requests share cached pages only under equal salts.
        model_name: Requests share cached pages only under equal models;
            name the adapter too where there is one.
        cache_priority: 0 to 100: of what requests leave behind in the cache,
            the lowest goes first.
        cache_ttl: Seconds, from the request's first reservation on, after
            which a higher priority than 35 falls back to that; None for never.

    Raises:
        ValueError: If `tokens` is empty or not a row of integers.
    """

    request_id: Hashable
    """Identifies the request."""
    cache_salt: str | None
    """Requests share cached pages only under equal salts."""
    model_name: str
    """Requests share cached pages only under equal models."""
    cache_priority: int
    """Of what requests leave behind in the cache, the lowest goes first."""
    cache_ttl: float | None
    """Seconds after which a higher priority ends; None for never."""

    def __init__(
        self,
        tokens: Sequence[int] | npt.NDArray[np.integer],
        *,
        request_id: Hashable | None = None,
        cache_salt: str | None = None,
        model_name: str = "",
        cache_priority: int = 35,
        cache_ttl: float | None = None,
    ) -> None:
        """Makes a request that nothing has been computed for."""
        self._tokens = Tokens(tokens)
        self.request_id = uuid.uuid4().hex if request_id is None else request_id
        self.cache_salt = cache_salt
        self.model_name = model_name
        self.cache_priority = cache_priority
        self.cache_ttl = cache_ttl

    @property
    def tokens(self) -> Tokens:
        """The request's tokens, the same object for ever."""
        return self._tokens

    def __repr__(self) -> str:
        """Returns id and lengths; no salt and no token."""
        return f"Request(request_id={self.request_id!r}, {self.tokens!r})"

    def update(self, new_token: int) -> None:
        """Moves on to the next chunk or, without one, by a generated token.

        Args:
            new_token: The generated token; ignored while a chunk is active,
                since the prompt already says what follows.
        """
        if self.tokens.actively_chunked:
            self.tokens.advance_chunk()
        else:
            self.tokens.advance_with_token(new_token)


def request_id_of(request: Hashable | RequestContext) -> Hashable:
    """Returns a request's id, given the id or the request."""
    if isinstance(request, Hashable):
        return getattr(request, "request_id", request)
    return request.request_id
