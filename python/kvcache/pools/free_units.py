"""Which units are free: tokens, or whole pages, numbered from 1.

Two buffers, as in pymllm: units are taken from the front of a long list, and
given back to a short one that is merged into it only when the long one does
not suffice. Beside them stands one byte a unit that says what state it is in.
"""

import torch

from kvcache.errors import SlotStateError
from kvcache.pools.devices import zeros

FREE, HELD, PENDING, RESERVED = range(4)
"""What a unit is; pending is given back in a group that is still open."""

SCAN_SHARE = 16
"""A merge looks at all states if one in so many units is free.

Finding the free ones among the states takes time in proportion to all units,
sorting takes longer for each that is sorted: so neither costs more than a few
steps for each unit that is merged.
"""


class FreeUnits:
    """The free units of a pool and the states of all.

    Args:
        num_units: Units, numbered from 1.
        device: Where the lists are.
        sorts: Whether low numbers are taken first after a merge.
        name: What a unit is called in messages.
    """

    def __init__(
        self, num_units: int, *, device: torch.device, sorts: bool, name: str
    ) -> None:
        """Makes all units free."""
        self.num_units = num_units
        self._device = device
        self._sorts = sorts
        self._name = name
        self._states = zeros([num_units + 1], dtype=torch.uint8, device=device)
        self._order = zeros([num_units + 1], dtype=torch.int32, device=device)
        self.clear()

    def clear(self) -> None:
        """Makes all units free again."""
        self._states.fill_(FREE)
        self._states[0] = RESERVED
        self._ready = self._all_units()
        self._returned: list[torch.Tensor] = []
        self._pending: list[torch.Tensor] = []
        self.num_free = self.num_units

    @property
    def ready(self) -> torch.Tensor:
        """Units that are taken next, in order, int32 `[num_ready]`."""
        return self._ready

    @property
    def returned(self) -> torch.Tensor:
        """Units given back since the last merge, int32 `[num_returned]`."""
        return torch.cat([self._ready[:0], *self._returned])

    def take(self, count: int) -> torch.Tensor:
        """Takes units from the front; there must be so many.

        Args:
            count: How many, at most `num_free`.

        Returns:
            Their numbers, int32 `[count]`, in memory of their own.
        """
        if count > self._ready.numel():
            self.merge()
        taken = self._ready[:count].clone()
        self._ready = self._ready[count:]
        self._mark(taken, HELD)
        self.num_free -= count
        return taken

    def check_held(self, units: torch.Tensor, *, or_pending: bool) -> None:
        """Raises unless each unit is held and comes once.

        Waits for the device on which the units are.

        Args:
            units: In range, `[num_units]`.
            or_pending: Whether units of the open group pass, and pass twice.

        Raises:
            SlotStateError: If one is not held, or comes twice.
        """
        states = self._states[units]
        wrong = states != HELD
        if or_pending:
            wrong &= states != PENDING
        elif units.numel() > 1:
            places = torch.arange(
                units.numel(), dtype=torch.int32, device=units.device
            )
            self._order[units] = places
            wrong |= self._order[units] != places
        if bool(wrong.any()):
            unit = int(units[wrong][0])
            raise SlotStateError(f"{self._name} {unit} is free already")

    def held(self, units: torch.Tensor) -> torch.Tensor:
        """Returns those that are held and not pending, in their order."""
        return units[self._states[units] == HELD]

    def give_back(self, units: torch.Tensor) -> None:
        """Makes held units free.

        Args:
            units: Held, each once, int32 in memory of their own.
        """
        self._mark(units, FREE)
        self._returned.append(units)
        self.num_free += units.numel()

    def hold_back(self, units: torch.Tensor) -> None:
        """Makes held units pending: free once the group ends."""
        self._mark(units, PENDING)
        self._pending.append(units)

    def release_pending(self) -> None:
        """Makes all pending units free."""
        if self._pending:
            units = torch.cat(self._pending)
            self._pending = []
            self.give_back(units)

    def merge(self) -> None:
        """Puts what was given back behind what is ready, and sorts all."""
        if not self._returned:
            return
        if self._sorts and self.num_free * SCAN_SHARE >= self.num_units:
            free = torch.nonzero(self._states == FREE).view(-1)
            self._ready = free.to(torch.int32)
        else:
            merged = torch.cat([self._ready, *self._returned])
            self._ready = merged.sort().values if self._sorts else merged
        self._returned = []

    def _all_units(self) -> torch.Tensor:
        with torch.inference_mode(mode=False):
            return torch.arange(
                1, self.num_units + 1, dtype=torch.int32, device=self._device
            )

    def _mark(self, units: torch.Tensor, state: int) -> None:
        self._states.index_fill_(0, units.long(), state)
