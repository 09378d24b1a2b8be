"""How long findable pages are kept, and the clock that it is told by."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import inf, isfinite

from kvcache.core.entry import Entry
from kvcache.core.lists import NUM_PRIORITIES
from kvcache.core.values import DEFAULT_PRIORITY
from kvcache.errors import RetentionError

_SPARE_ALARMS = 64


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what a sequence commits is to be kept.

    Raises:
        RetentionError: If the priority is out of range, or `expires` does not
            fit it.
    """

    priority: int = DEFAULT_PRIORITY
    """0 to 100; of cached pages, the lowest go first."""
    expires: float = 0.0
    """Seconds on the clock when the priority falls back to the default,
    infinity for never; 0.0 for a priority that is not above the default."""

    def __post_init__(self) -> None:
        """Verifies that the two fit each other."""
        if not 0 <= self.priority < NUM_PRIORITIES:
            raise RetentionError(
                f"wanted a priority from 0 to {NUM_PRIORITIES - 1}, got "
                f"{self.priority}"
            )
        is_raised = self.priority > DEFAULT_PRIORITY
        if is_raised and not self.expires > 0.0:
            raise RetentionError(
                f"wanted a time of expiry for priority {self.priority}, got "
                f"{self.expires}"
            )
        if not is_raised and self.expires != 0.0:
            raise RetentionError(
                f"wanted no expiry for a priority of at most "
                f"{DEFAULT_PRIORITY}, got {self.expires}"
            )

    def at(self, now: float) -> "Retention":
        """Returns what is left of it at a time, in seconds."""
        return Retention() if 0.0 < self.expires <= now else self


class RetentionClock:
    """Raises the retention of pages and lets it expire.

    No page is ever kept longer than what it follows: raising a page raises
    all that it follows.

    Args:
        entry_of: Returns what an indexed page holds, None for other pages.

    Performance:
        A page whose retention is raised costs logarithmic time, now and when
        it expires.
    """

    def __init__(self, entry_of: Callable[[int], Entry | None]) -> None:
        """Starts at 0.0 seconds."""
        self.now = 0.0
        self._entry_of = entry_of
        self._alarms: list[tuple[float, int, int, int, Entry]] = []
        self._serials = count()  # Keeps the heap from comparing entries.
        self._most_alarms = _SPARE_ALARMS

    def lift(self, entry: Entry | bytes, retention: Retention) -> None:
        """Raises an entry, and what it follows, to a retention.

        Args:
            entry: The entry of a held page; of a namespace nothing is raised.
            retention: What it is raised to, as far as it has not expired.
        """
        wanted = retention.at(self.now)
        while isinstance(entry, Entry):
            priority = max(entry.priority, wanted.priority)
            expires = max(entry.expires, wanted.expires)
            if (priority, expires) == (entry.priority, entry.expires):
                return
            entry.priority, entry.expires = priority, expires
            self.watch(entry)
            entry = entry.parent

    def watch(self, entry: Entry) -> None:
        """Sees to an entry's expiry, once it or its page has changed."""
        if not 0.0 < entry.expires < inf:
            return
        if len(self._alarms) >= self._most_alarms:
            self._forget_stale()
        alarm = (entry.expires, -entry.depth, entry.page)
        heapq.heappush(self._alarms, (*alarm, next(self._serials), entry))

    def advance(self, now: float) -> list[int]:
        """Sets the clock and takes back what has expired.

        Args:
            now: Seconds; an earlier time than before changes nothing.

        Returns:
            The pages that fell back to the default, earliest first and then
            tail first.

        Raises:
            RetentionError: If `now` is not finite.
        """
        if not isfinite(now):
            raise RetentionError(f"wanted a finite time, got {now}")
        self.now = max(self.now, now)
        pages = []
        while self._alarms and self._alarms[0][0] <= self.now:
            alarm = heapq.heappop(self._alarms)
            if self._is_due(alarm):
                entry = alarm[-1]
                entry.priority, entry.expires = DEFAULT_PRIORITY, 0.0
                pages.append(entry.page)
        return pages

    def _is_due(self, alarm: tuple[float, int, int, int, Entry]) -> bool:
        """Returns whether an alarm still stands for what its entry says."""
        expires, _, page, _, entry = alarm
        return self._entry_of(page) is entry and entry.expires == expires

    def _forget_stale(self) -> None:
        self._alarms = [alarm for alarm in self._alarms if self._is_due(alarm)]
        heapq.heapify(self._alarms)
        self._most_alarms = 2 * len(self._alarms) + _SPARE_ALARMS
