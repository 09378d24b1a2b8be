"""A loop whose model writes real bytes, on a manager with one replica."""

from typing import Any

from byte_oracle import ByteOracle
from kvcache import PagedKVCacheManager, Request
from managers import claimed


class ByteLoop:
    """Computes requests, and looks at all that was computed before."""

    def __init__(self, manager: PagedKVCacheManager) -> None:
        self.manager = manager
        self.oracle = ByteOracle(manager.page_size)

    def run(self, *batch: Request) -> None:
        """Computes the active tokens; the requests stay as they are."""
        shards = self.manager.fetch(batch)
        self.oracle.check(batch, shards)
        spans = [
            range(r.tokens.processed_length, r.tokens.current_position)
            for r in batch
        ]
        self.oracle.write(batch, shards, spans)

    def step(self, *batch: Request, token: int = 7) -> None:
        """Computes the active tokens and commits them."""
        self.run(*batch)
        for request in batch:
            request.update(token)
        self.manager.step(batch)

    def serve(self, tokens: Any, **fields: Any) -> Request:
        """Computes a new request's prompt."""
        request = claimed(self.manager, tokens, **fields)
        assert self.manager.maybe_reserve(request)
        self.step(request)
        return request

    def leave(self, *batch: Request) -> None:
        """Releases requests."""
        for request in batch:
            self.manager.release(request.request_id)
