"""How much memory a device has."""

from dataclasses import dataclass

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.checks import integer, positive
from kvcache.paged_attention.devices import is_host, number_of


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """One device's memory.

    Raises:
        InvalidParamsError: If the limit is not positive, or less than nothing
            is in use.
    """

    bytes_reservable_limit: int
    """Bytes that there are."""
    bytes_in_use: int = 0
    """Bytes of them that are taken."""

    def __post_init__(self) -> None:
        """Checks both numbers."""
        limit = self.bytes_reservable_limit
        positive("bytes_reservable_limit", limit)
        if integer("bytes_in_use", self.bytes_in_use) < 0:
            raise InvalidParamsError(
                f"`bytes_in_use` must not be negative, got {self.bytes_in_use}"
            )


def memory_of(device: str) -> DeviceMemory:
    """Returns what MAX says of a device's memory, the CPU's included.

    Args:
        device: A name such as "cpu:0".

    Raises:
        InvalidParamsError: If there is no such device.
    """
    from max.driver import CPU, Accelerator, accelerator_count

    if is_host(device):
        stats = CPU().stats
    elif number_of(device) < accelerator_count():
        stats = Accelerator(number_of(device)).stats
    else:
        raise InvalidParamsError(
            f"`mesh` must have devices that are there, got {device} with "
            f"{accelerator_count()} GPUs"
        )
    total, free = int(stats["total_memory"]), int(stats["free_memory"])
    return DeviceMemory(total, max(0, total - free))
