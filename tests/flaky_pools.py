"""Pools whose copies fail when a test says so, and leave rubbish behind."""

from collections.abc import Sequence
from typing import Any

from kvcache import PagedKVCacheManager
from kvcache.core.interface import Move
from kvcache.manager.moving import Run


class FlakyCopies:
    """Puts itself before the copies of every pool of a manager.

    While there are orders, pages come one by one, and each takes one.
    """

    def __init__(self, manager: PagedKVCacheManager) -> None:
        self.orders: list[bool] = []
        """Whether the next copies fail, the first one first."""
        self.breaks: Move | None = None
        """A kind that always fails."""
        self.seen: list[tuple[Move, list[Run]]] = []
        """The calls that worked."""
        self.num_failed = 0
        for pools in manager._pools:
            for shard in pools.shards:
                shard.copy_runs = self._before(shard)  # type: ignore[method-assign]  # on purpose: copies that fail

    def _before(self, shard: Any) -> Any:
        real = shard.copy_runs

        def copy_runs(kind: Move, chosen: Sequence[Run]) -> None:
            num_pages = sum(run.count for run in chosen)
            if num_pages > 1 and (self.orders or self.breaks is kind):
                raise RuntimeError("not all at once")
            if self.breaks is kind or (self.orders and self.orders.pop(0)):
                self.num_failed += 1
                spoil(shard, kind, chosen[0])
                raise RuntimeError("no copy")
            real(kind, chosen)
            self.seen.append((kind, list(chosen)))

        return copy_runs


def spoil(shard: Any, kind: Move, run: Run) -> None:
    """Writes what nobody wants where a copy should have gone."""
    for part in shard.parts(run.target, run.count, kind is Move.OFFLOAD):
        part.to_numpy()[...] = -7.0
