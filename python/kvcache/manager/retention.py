"""How long what requests commit is to be kept."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from kvcache.core.interface import DEFAULT_PRIORITY, CacheCore
from kvcache.errors import RetentionError
from kvcache.request import RequestContext

Clock: TypeAlias = Callable[[], float]
"""Seconds that never go back, from any beginning."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted for a request's pages.

    Raises:
        RetentionError: If it is out of range or contradicts itself.
    """

    priority: int = DEFAULT_PRIORITY
    """0 to 100; of cached pages, the lowest go first."""
    ttl: float | None = None
    """Seconds until the pages fall back to the default; None for never."""

    def __post_init__(self) -> None:
        """Verifies the ranges."""
        if not 0 <= self.priority <= 100:
            raise RetentionError(
                f"wanted a priority from 0 to 100, got {self.priority}"
            )
        if self.ttl is None:
            return
        if not self.ttl > 0:
            raise RetentionError(
                f"wanted a time to live of more than 0 seconds, got {self.ttl}"
            )
        if self.priority <= DEFAULT_PRIORITY:
            raise RetentionError(
                f"wanted a priority above {DEFAULT_PRIORITY} to go with a time "
                f"to live, got {self.priority}"
            )

    @classmethod
    def of(cls, context: RequestContext) -> "Wish":
        """Reads `cache_priority` and `cache_ttl`, which requests may have.

        Raises:
            RetentionError: If they are out of range or contradict each other.
        """
        priority = getattr(context, "cache_priority", None)
        ttl = getattr(context, "cache_ttl", None)
        return cls(DEFAULT_PRIORITY if priority is None else priority, ttl)

    def expires(self, now: float) -> float:
        """Returns when the pages fall back, as the core takes it."""
        if self.priority <= DEFAULT_PRIORITY:
            return 0.0
        return inf if self.ttl is None else now + self.ttl


class Keeper:
    """Tells a core the time, and how long to keep what.

    Args:
        core: Keeps the pages' books.
        clock: Says the time.
    """

    def __init__(self, core: CacheCore, clock: Clock) -> None:
        """Starts without looking at the clock."""
        self._core = core
        self._clock = clock
        self.has_ttl = False
        """Whether anything was to be kept for a time."""

    def tick(self) -> float:
        """Tells the core the time, in seconds, and returns it."""
        now = self._clock()
        self._core.tick(now)
        return now

    def keep(self, seq: int, wish: Wish) -> None:
        """Says how long to keep what a sequence commits."""
        now = self.tick()
        self._core.set_retention(
            seq, priority=wish.priority, expires=wish.expires(now)
        )
        self.has_ttl = self.has_ttl or wish.ttl is not None
