"""Rounding between element types in torch, which has them all."""

from typing import Any

import torch

from kvcache.paged_attention.backend import Rows
from kvcache.paged_attention.numpy_codes import LARGEST

_TINY = float(torch.finfo(torch.float32).tiny)


class TorchCodes:
    """Arithmetic on torch tensors, on whichever device they are."""

    def empty(self, shape: tuple[int, ...], like: Rows) -> Rows:
        """Returns a tensor to be filled, of another's type and device."""
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    def convert(self, rows: Rows, source: str, target: str) -> Rows:
        """Returns rows in another type, rounded to nearest, ties to even."""
        return rows if source == target else rows.to(_dtype(target))

    def all_finite(self, rows: Rows) -> bool:
        """Returns whether rows are free of infinities and NaN."""
        return bool(torch.isfinite(rows).all())

    def scales_of(self, groups: Rows, dtype: str) -> Rows:
        """Returns the scales that make the largest number the largest code."""
        largest = groups.abs().amax(dim=-1)
        divisor = torch.full_like(largest, LARGEST[dtype])
        scales = (largest / divisor).clamp(min=_TINY)
        return torch.where(largest == 0, torch.ones_like(scales), scales)

    def quantise(self, groups: Rows, scales: Rows, dtype: str) -> Rows:
        """Returns the codes nearest to numbers over their scale."""
        numbers = groups * scales.reciprocal()[..., None]
        numbers = numbers.clamp(-LARGEST[dtype], LARGEST[dtype])
        if dtype == "int8":
            numbers = numbers.round()
        return numbers.to(_dtype(dtype))

    def dequantise(
        self,
        groups: Rows,
        scales: Rows,
        dtype: str,  # noqa: ARG002  (the tensor knows)
    ) -> Rows:
        """Returns the numbers that codes mean, float32."""
        return groups.to(torch.float32) * scales[..., None]


def _dtype(name: str) -> Any:
    return getattr(torch, name)
