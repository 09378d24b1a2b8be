"""Devices in a grid, each axis of which has a name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.checks import positive
from kvcache.paged_attention.devices import device_name


@dataclass(frozen=True)
class Mesh:
    """Devices in a grid with named axes.

    A device may be there several times: its places then hold logical shards,
    as many as there would be devices.

    Args:
        devices: Names or devices of MAX or torch, flat or nested as the axes
            are; kept flat, by name, the last axis running fastest.
        axis_names: One name for each axis.
        axis_sizes: Devices along each axis, if `devices` is flat.

    Raises:
        InvalidParamsError: If there are no devices, or they do not fill the
            axes, or a name is empty or there twice.
    """

    devices: tuple[str, ...]
    """Names, the last axis running fastest."""
    axis_names: tuple[str, ...]
    """The name of each axis."""
    axis_sizes: tuple[int, ...]
    """Devices along each axis."""

    def __init__(
        self,
        devices: object,
        axis_names: str | Sequence[str],
        axis_sizes: Sequence[int] | None = None,
    ) -> None:
        """Flattens the devices and checks the axes."""
        flat, nested = _flatten(devices)
        names = (axis_names,) if isinstance(axis_names, str) else axis_names
        sizes = nested
        if axis_sizes is not None:
            sizes = tuple(positive("axis_sizes", each) for each in axis_sizes)
        object.__setattr__(self, "devices", flat)
        object.__setattr__(self, "axis_names", _checked_names(names))
        object.__setattr__(self, "axis_sizes", sizes)
        if len(sizes) != len(self.axis_names):
            raise InvalidParamsError(
                f"`axis_names` must name {len(sizes)} axes, got "
                f"{self.axis_names}"
            )
        if math.prod(sizes) != len(flat) or not flat:
            raise InvalidParamsError(
                f"`devices` must be {math.prod(sizes)} to fill axes of "
                f"{sizes}, got {len(flat)}"
            )

    @property
    def size(self) -> int:
        """How many devices there are."""
        return len(self.devices)

    @property
    def shape(self) -> dict[str, int]:
        """Devices along each axis, by name."""
        return dict(zip(self.axis_names, self.axis_sizes, strict=True))


def as_mesh(mesh: object) -> Mesh:
    """Returns a mesh of ours.

    Args:
        mesh: A mesh, or a `torch.distributed.DeviceMesh`, told by its
            `device_type`, `mesh` and `mesh_dim_names`. Its ranks count as the
            devices of one host; on the CPU all are the one CPU.

    Raises:
        InvalidParamsError: If it is neither, or its axes have no names.
    """
    if isinstance(mesh, Mesh):
        return mesh
    kind = getattr(mesh, "device_type", None)
    ranks: Any = getattr(mesh, "mesh", None)
    if not isinstance(kind, str) or not hasattr(ranks, "tolist"):
        raise InvalidParamsError(
            f"`mesh` must be a Mesh or a torch DeviceMesh, got "
            f"{type(mesh).__name__}"
        )
    names = getattr(mesh, "mesh_dim_names", None)
    if names is None:
        raise InvalidParamsError(
            "`mesh` must name its axes in mesh_dim_names, got None"
        )
    places, sizes = _leaves(ranks.tolist(), ())
    devices = ["cpu" if kind == "cpu" else f"{kind}:{x}" for x in places]
    return Mesh(devices, tuple(names), sizes)


def _checked_names(names: object) -> tuple[str, ...]:
    if not isinstance(names, Sequence):
        raise InvalidParamsError(f"`axis_names` must be names, got {names!r}")
    found = tuple(names)
    if not all(isinstance(each, str) and each for each in found):
        raise InvalidParamsError(f"`axis_names` must be names, got {names!r}")
    if len(set(found)) != len(found):
        raise InvalidParamsError(
            f"`axis_names` must be different, got {names!r}"
        )
    return found


def _flatten(devices: object) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if hasattr(devices, "tolist"):
        devices = devices.tolist()
    if isinstance(devices, str) or not isinstance(devices, Sequence):
        devices = [devices]
    leaves, sizes = _leaves(devices, ())
    return tuple(device_name(each) for each in leaves), sizes


def _leaves(
    nested: object, sizes: tuple[int, ...]
) -> tuple[list[object], tuple[int, ...]]:
    """Returns what is nested, row by row, and the lengths of the levels."""
    if isinstance(nested, str) or not isinstance(nested, Sequence):
        return [nested], sizes
    parts = [_leaves(each, ()) for each in nested]
    inner = {part[1] for part in parts}
    if len(inner) > 1:
        raise InvalidParamsError(
            "`devices` must be nested evenly, got rows of different lengths"
        )
    below = inner.pop() if inner else ()
    return [x for part in parts for x in part[0]], (len(parts), *sizes, *below)
