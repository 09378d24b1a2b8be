"""Which units are free: tokens, or whole pages, numbered from 1.

Two buffers, as in pymllm: units are taken from the front of a long list, and
given back to a short one that is merged into it only when the long one does
not suffice. Beside them stands one byte a unit that says what state it is in.

The books are in host memory whatever device the pool is on: a step of NumPy's
takes a microsecond or two, on one core, where a kernel launch costs ten.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.errors import SlotStateError

Units: TypeAlias = npt.NDArray[np.signedinteger]
"""Numbers of units: int32 in the lists, and as NumPy indexes in calls."""

FREE, HELD, PENDING, RESERVED = range(4)
"""What a unit is; pending is given back in a group that is still open."""

SCAN_SHARE = 64
"""A merge looks at all states if one in so many units is free.

Finding the free ones among the states takes time in proportion to all units,
sorting takes longer for each that is sorted: so neither costs more than a few
steps for each unit that is merged.
"""


class FreeUnits:
    """The free units of a pool and the states of all.

    Args:
        num_units: Units, numbered from 1.
        sorts: Whether low numbers are taken first after a merge.
        name: What a unit is called in messages.
    """

    def __init__(self, num_units: int, *, sorts: bool, name: str) -> None:
        """Makes all units free."""
        self.num_units = num_units
        self._sorts = sorts
        self._name = name
        self._states = np.empty(num_units + 1, np.uint8)
        self._places = np.empty(num_units + 1, np.int32)
        self.clear()

    def clear(self) -> None:
        """Makes all units free again."""
        self._states[:] = FREE
        self._states[0] = RESERVED
        self._ready: Units = np.arange(1, self.num_units + 1, dtype=np.int32)
        self._returned: list[Units] = []
        self._pending: list[Units] = []
        self.num_free = self.num_units

    @property
    def ready(self) -> Units:
        """Units that are taken next, in order, `[num_ready]`."""
        return self._ready

    @property
    def returned(self) -> Units:
        """Units given back since the last merge, `[num_returned]`."""
        return np.concatenate([self._ready[:0], *self._returned])

    def take(self, count: int) -> Units:
        """Takes units from the front; there must be so many.

        Args:
            count: How many, at most `num_free`.

        Returns:
            Their numbers, `[count]`, in memory of their own.
        """
        if count > len(self._ready):
            self.merge()
        taken = self._ready[:count].copy()
        self._ready = self._ready[count:]
        self._states[taken] = HELD
        self.num_free -= count
        return taken

    def is_first(self, units: Units) -> npt.NDArray[np.bool_]:
        """Returns which units did not come before, `[num_units]`.

        Args:
            units: In range, `[num_units]`.
        """
        places = np.arange(len(units), dtype=np.int32)
        # Of places with one index NumPy keeps the last: here, the first.
        self._places[units[::-1]] = places[::-1]
        return np.equal(self._places[units], places)

    def check_held(self, units: Units, *, or_pending: bool) -> None:
        """Raises unless each unit is held.

        Args:
            units: In range, `[num_units]`.
            or_pending: Whether units of the open group pass too.

        Raises:
            SlotStateError: If one is not held.
        """
        states = self._states[units]
        wrong = states != HELD
        if or_pending:
            wrong &= states != PENDING
        self.raise_for(units[wrong])

    def raise_for(self, units: Units) -> None:
        """Raises for units that are freed although they are free.

        Raises:
            SlotStateError: If there is one.
        """
        if len(units):
            raise SlotStateError(f"{self._name} {units[0]} is free already")

    def held(self, units: Units) -> Units:
        """Returns those that are held and not pending, in their order."""
        return np.compress(self._states[units] == HELD, units)

    def give_back(self, units: Units) -> None:
        """Makes held units free.

        Args:
            units: Held, each once.
        """
        self._states[units] = FREE
        self._returned.append(units.astype(np.int32))
        self.num_free += len(units)

    def hold_back(self, units: Units) -> None:
        """Makes held units pending: free once the group ends."""
        self._states[units] = PENDING
        self._pending.append(units)

    def release_pending(self) -> None:
        """Makes all pending units free."""
        if self._pending:
            units = np.concatenate(self._pending)
            self._pending = []
            self.give_back(units)

    def merge(self) -> None:
        """Puts what was given back behind what is ready, and sorts all."""
        if not self._returned:
            return
        if self._sorts and self.num_free * SCAN_SHARE >= self.num_units:
            free = np.flatnonzero(self._states == FREE)
            self._ready = free.astype(np.int32)
        else:
            self._ready = np.concatenate([self._ready, *self._returned])
            if self._sorts:
                self._ready.sort()
        self._returned = []
