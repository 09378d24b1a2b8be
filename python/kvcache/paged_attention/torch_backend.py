"""Pages in torch tensors, on the CPU or on GPUs."""

from typing import Any

import numpy as np

from kvcache.errors import InvalidParamsError, MissingPackageError
from kvcache.paged_attention.backend import Array, ArrayType, Indices, Rows
from kvcache.paged_attention.devices import device_name, is_host, number_of
from kvcache.paged_attention.element_types import DTYPE_BYTES
from kvcache.paged_attention.numpy_backend import raw

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingPackageError(
        "torch tensors want torch, which comes with `kvcache[torch]`"
    ) from error

from kvcache.paged_attention.torch_codes import TorchCodes

_CODES = TorchCodes()


class TorchBackend:
    """torch tensors."""

    name = "torch"

    def codes(self, device: str) -> TorchCodes:  # noqa: ARG002  (it has one)
        """Returns torch's arithmetic."""
        return _CODES

    def describe(self, array: Array) -> ArrayType:
        """Returns what a tensor is."""
        name = str(array.dtype).removeprefix("torch.")
        if name not in DTYPE_BYTES:
            raise InvalidParamsError(
                f"wanted a tensor of numbers, got one of {name}"
            )
        return ArrayType(name, tuple(array.shape), device_name(array.device))

    def is_writable(
        self,
        array: Array,  # noqa: ARG002  (all are)
    ) -> bool:
        """Returns True."""
        return True

    def zeros(self, wanted: ArrayType) -> Array:
        """Returns a tensor of zeros."""
        return torch.zeros(
            wanted.shape,
            dtype=getattr(torch, wanted.dtype),
            device=torch_device(wanted.device),
        )

    def to_bytes(self, array: Array) -> bytes:
        """Returns a tensor's elements in row-major order, little-endian."""
        flat = array.detach().cpu().contiguous().reshape(-1)
        return bytes(flat.view(torch.uint8).numpy().tobytes())

    def from_bytes(self, data: bytes, wanted: ArrayType) -> Array:
        """Returns a tensor with given elements."""
        array = self.zeros(wanted)
        bits = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        array.view(-1).view(torch.uint8).copy_(bits)
        return array

    def rows(self, array: Array, device: str) -> Rows:
        """Returns a tensor on a device."""
        if isinstance(array, np.ndarray):
            tensor = torch.from_numpy(np.array(raw(array)))
            if tensor.dtype == torch.uint16:
                tensor = tensor.view(torch.bfloat16)
        else:
            tensor = array.detach()
        return tensor.to(torch_device(device))

    def array(
        self,
        rows: Rows,
        dtype: str,  # noqa: ARG002  (the tensor knows)
        device: str,  # noqa: ARG002
    ) -> Array:
        """Returns rows, which are a tensor."""
        return rows

    def store(
        self, pages: Array, page: Indices, slot: Indices, rows: Rows
    ) -> None:
        """Writes rows into pages, in place."""
        page, slot = _indices(page, pages), _indices(slot, pages)
        seen = bits(pages)
        seen[:, page, slot] = bits(rows.to(pages.device))

    def load(self, pages: Array, page: Indices, slot: Indices) -> Rows:
        """Returns a copy of rows of pages."""
        page, slot = _indices(page, pages), _indices(slot, pages)
        return bits(pages)[:, page, slot].view(pages.dtype)


def bits(tensor: Rows) -> Rows:
    """Returns a tensor of 8-bit floats as bytes, which can be indexed.

    Args:
        tensor: Any tensor; another one is returned as it is.
    """
    tensor = tensor.detach()
    if tensor.dtype in {torch.float8_e4m3fn, torch.float8_e5m2}:
        return tensor.view(torch.uint8)
    return tensor


def torch_device(device: str) -> Any:
    """Returns a device of torch's.

    Args:
        device: Its name, "cpu:0" or "gpu:0".

    Raises:
        InvalidParamsError: If there is no such device.
    """
    if is_host(device):
        return torch.device("cpu")
    number, count = number_of(device), torch.cuda.device_count()
    if number >= count:
        raise InvalidParamsError(
            f"`mesh` must have devices that are there, got {device} with "
            f"{count} GPUs"
        )
    return torch.device("cuda", number)


def _indices(index: Indices, like: Rows) -> Any:
    return torch.from_numpy(index).to(like.device)


BACKEND = TorchBackend()
