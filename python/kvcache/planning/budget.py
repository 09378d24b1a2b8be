"""The memory that a cache may take."""

from dataclasses import dataclass

from kvcache.errors import InsufficientMemoryError, InvalidParamsError


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """The memory of some equal devices, and how much of it is for the cache.

    Raises:
        InvalidParamsError: If a number is out of range.
        InsufficientMemoryError: If nothing is left for the cache.
    """

    memory: int
    """Bytes of one device."""
    utilization: float = 0.9
    """Share of the memory that may be used at all, above 0 and at most 1."""
    in_use: int = 0
    """Bytes of that share that are taken on each device, as by weights."""
    n_devices: int = 1
    """Devices that share the heads of the model."""

    def __post_init__(self) -> None:
        """Checks every number, and that something is left."""
        if self.memory < 1:
            raise InvalidParamsError(
                f"memory must be positive, got {self.memory}"
            )
        if not 0 < self.utilization <= 1:
            raise InvalidParamsError(
                f"utilization must be above 0 and at most 1, got "
                f"{self.utilization}"
            )
        if self.in_use < 0:
            raise InvalidParamsError(
                f"in_use must not be negative, got {self.in_use}"
            )
        if self.n_devices < 1:
            raise InvalidParamsError(
                f"n_devices must be positive, got {self.n_devices}"
            )
        if self.bytes < 1:
            raise InsufficientMemoryError(
                f"wanted memory for the cache, got none: "
                f"{int(self.memory * self.utilization)} bytes may be used, "
                f"{self.in_use} are in use"
            )

    @property
    def bytes(self) -> int:
        """Bytes for the cache, over all devices."""
        usable = int(self.memory * self.utilization)
        return (usable - self.in_use) * self.n_devices
