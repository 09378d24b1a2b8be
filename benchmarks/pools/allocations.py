"""Workloads of an allocator, and the lists that torch alone would make."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

from kvcache.pools import TokenToKVPoolAllocator

REQUEST = 512
"""Tokens of one request."""
SINGLES = 2000
"""Single tokens that are taken and given back, one after the other."""


class Allocator(Protocol):
    """What the workloads need."""

    def alloc(self, need_size: int) -> torch.Tensor | None:
        """Takes slots."""

    def free(self, indices: torch.Tensor) -> None:
        """Gives slots back."""


class TorchLists:
    """Two lists of free slots or pages, by `torch.cat` and `sort`.

    Nothing is checked: what is freed twice is in the lists twice.
    """

    def __init__(self, size: int, page_size: int) -> None:
        """Makes all free."""
        self._page_size = page_size
        self._free = torch.arange(1, size // page_size + 1, dtype=torch.int32)
        self._returned = self._free[:0]
        self._places = torch.arange(page_size, dtype=torch.int32)

    def alloc(self, need_size: int) -> torch.Tensor | None:
        """Takes slots from the front of the long list."""
        count = -(-need_size // self._page_size)
        if count > len(self._free):
            both = torch.cat((self._free, self._returned))
            self._free, self._returned = both.sort().values, both[:0]
        if count > len(self._free):
            return None
        taken, self._free = self._free[:count], self._free[count:]
        if self._page_size == 1:
            return taken
        starts = taken.unsqueeze(1) * self._page_size
        return (starts + self._places).view(-1)[:need_size]

    def free(self, indices: torch.Tensor) -> None:
        """Puts slots behind the short list."""
        if self._page_size > 1:
            indices = torch.unique(indices // self._page_size)
        self._returned = torch.cat((self._returned, indices))


SIDES: dict[str, Callable[[int, int], Allocator]] = {
    "kvcache": lambda size, page: TokenToKVPoolAllocator(size, "cpu", page),
    "torch cat and sort": TorchLists,
}


def requests(allocator: Allocator, size: int) -> tuple[Callable[[], int], int]:
    """Fills three quarters with requests; then the oldest makes room.

    Returns:
        What turns the whole pool over once, merges among it, and how many
        tokens it takes and gives back.
    """
    held: deque[torch.Tensor] = deque()
    for _ in range(size * 3 // 4 // REQUEST):
        held.append(taken(allocator, REQUEST))
    rounds = max(size // REQUEST, 200)

    def run() -> int:
        for _ in range(rounds):
            held.append(taken(allocator, REQUEST))
            allocator.free(held.popleft())
        return len(held)

    return run, rounds * REQUEST


def singles(
    allocator: Allocator, size: int, step: int
) -> tuple[Callable[[], int], int]:
    """Fills the pool but for one unit, which is then taken again and again.

    Returns:
        What does so, and how many units it takes and gives back.
    """
    taken(allocator, size - size % step - step)

    def run() -> int:
        for _ in range(SINGLES):
            allocator.free(taken(allocator, step))
        return SINGLES

    return run, SINGLES


def taken(allocator: Allocator, count: int) -> torch.Tensor:
    """Returns slots that must be there."""
    slots = allocator.alloc(count)
    assert slots is not None
    return slots
