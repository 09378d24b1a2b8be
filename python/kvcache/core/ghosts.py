"""When pages were evicted that are no longer there."""

from math import nan

GHOSTS = 65536


class Ghosts:
    """Remembers the latest evictions; it only explains, it never decides.

    Args:
        capacity: Evictions to remember.
    """

    def __init__(self, capacity: int = GHOSTS) -> None:
        """Starts without memories."""
        self._capacity = capacity
        self._times: dict[bytes, float] = {}  # oldest first

    def note(self, digest: bytes, now: float) -> None:
        """Remembers that a page of this digest was evicted, in seconds."""
        self._times.pop(digest, None)
        self._times[digest] = now
        if len(self._times) > self._capacity:
            del self._times[next(iter(self._times))]

    def time(self, digest: bytes) -> float:
        """Returns when a page was last evicted, in seconds; nan if unknown."""
        return self._times.get(digest, nan)
