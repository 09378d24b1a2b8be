"""Pools that notice every slot that is freed twice, or that is not theirs."""

from collections.abc import Iterable

import torch


class SlotPool:
    """Hands out pages of token slots from 1 on, the lowest first."""

    device = "cpu"

    def __init__(self, num_pages: int, unit: int = 1) -> None:
        self.page_size = unit
        self.size = num_pages * unit
        self.held: set[int] = set()
        self.freed: list[int] = []
        """All that was ever freed, in order."""

    @property
    def num_free(self) -> int:
        return self.size - len(self.held)

    def alloc(self, num_pages: int) -> list[int]:
        unit, slots = self.page_size, []
        for first in range(unit, self.size + unit, unit):
            if len(slots) < num_pages * unit and first not in self.held:
                slots += range(first, first + unit)
        assert len(slots) == num_pages * unit, "the pool is empty"
        self.held.update(slots)
        return slots

    def free(self, indices: torch.Tensor) -> None:
        assert indices.dtype == torch.int32
        self.take_back(indices.tolist())

    def take_back(self, slots: Iterable[int]) -> None:
        for slot in slots:
            assert slot in self.held, f"slot {slot} is free already"
            self.held.remove(slot)
            self.freed.append(slot)


class WindowPool(SlotPool):
    """A pool that can free the windows' share of a slot by itself."""

    def __init__(self, num_pages: int, unit: int = 1) -> None:
        super().__init__(num_pages, unit)
        self.without_window: set[int] = set()

    def free_swa(self, indices: torch.Tensor) -> None:
        for slot in indices.tolist():
            assert slot in self.held, f"slot {slot} is free"
            assert slot not in self.without_window, f"window {slot} is free"
            self.without_window.add(slot)

    def take_back(self, slots: Iterable[int]) -> None:
        slots = list(slots)
        super().take_back(slots)
        self.without_window.difference_update(slots)


class TrackSlots:
    """Hands out slots of snapshots, the highest first."""

    def __init__(self, num_slots: int) -> None:
        self.idle = list(range(num_slots))
        self.held: set[int] = set()
        self.freed: list[int] = []

    def alloc_track_slot(self) -> int | None:
        if not self.idle:
            return None
        self.held.add(slot := self.idle.pop())
        return slot

    def free_track_slot(self, slot: int) -> None:
        assert slot in self.held, f"state slot {slot} is free already"
        self.held.remove(slot)
        self.idle.append(slot)
        self.freed.append(slot)
