"""What MAX's calls answer: counts, hits, and a transfer that is over."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full something is, with the members of MAX's `BlockCount`."""

    free: int
    """Pages, or bytes, that can be handed out."""
    total: int
    """Pages, or bytes, in all."""

    @property
    def used(self) -> int:
        """What is not free."""
        return self.total - self.free

    @property
    def used_pct(self) -> float:
        """What is not free, from 0 to 100; 0 of nothing."""
        return 100 * self.used / self.total if self.total else 0.0

    @property
    def free_pct(self) -> float:
        """What is free, from 0 to 100; 0 of nothing."""
        return 100 * self.free / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class PrefixCacheHits:
    """Pages of a request's cached prefix on one replica."""

    device_blocks: int = 0
    """Pages on the devices, from the first one on."""
    external_blocks: int = 0
    """Pages elsewhere that continue them."""

    @property
    def total_blocks(self) -> int:
        """Pages wherever they are."""
        return self.device_blocks + self.external_blocks


@dataclass(frozen=True, slots=True)
class CompletedTransfer:
    """A transfer that nobody has to wait for, as MAX's `KVTransfer`."""

    def is_complete(self) -> bool:
        """Returns True."""
        return True

    def synchronize(self) -> None:
        """Returns at once."""


COMPLETED = CompletedTransfer()
"""What an allocation answers that has moved nothing."""
