"""Where a pool's tensors are, and how they are made."""

from collections.abc import Sequence

import torch

from kvcache.errors import DeviceNotAvailableError


def available_device(device: str | torch.device) -> torch.device:
    """Returns a device that this torch can use.

    Args:
        device: `"cuda"`, `"cuda:1"`, `"cpu"`, or a `torch.device`.

    Returns:
        The device.

    Raises:
        DeviceNotAvailableError: If it is a CUDA device and torch does not see
            it.
    """
    found = torch.device(device)
    if found.type != "cuda":
        return found
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (found.index or 0) >= count:
        raise DeviceNotAvailableError(
            f"wanted the device {str(found)!r}, torch sees {count} CUDA "
            'devices; pass device="cpu" for pools in host memory'
        )
    return found


def can_pin() -> bool:
    """Returns whether pinned host memory has an accelerator to serve."""
    return bool(torch.accelerator.is_available())


def zeros(
    shape: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
    pin_memory: bool = False,
) -> torch.Tensor:
    """Returns zeros that may be changed in any mode, `inference_mode` or not.

    Args:
        shape: The tensor's shape.
        dtype: The element type.
        device: Where the tensor is.
        pin_memory: Whether the host pages are locked.

    Returns:
        The tensor.
    """
    with torch.inference_mode(mode=False):
        return torch.zeros(
            tuple(shape), dtype=dtype, device=device, pin_memory=pin_memory
        )
