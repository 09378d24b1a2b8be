"""Which part of an array lies on which device of a mesh."""

import math
from dataclasses import dataclass
from typing import Self, TypeAlias

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.checks import instance
from kvcache.paged_attention.mesh import Mesh

Axis: TypeAlias = str | tuple[str, ...] | None
"""The axes of a mesh that split a dimension; none leaves it whole."""

Part: TypeAlias = tuple[slice, ...]
"""What one device has of each dimension."""


@dataclass(frozen=True)
class PartitionAxis:
    """The axes of a mesh that heads, tokens and pages are split over.

    Raises:
        InvalidParamsError: If one is neither a name, names nor None.
    """

    batch_axis: Axis = None
    """Splits the pages of a layer, and with them the sequences."""
    sequence_axis: Axis = None
    """Splits the tokens of each page."""
    head_axis: Axis = "tp"
    """Splits the heads."""

    def __post_init__(self) -> None:
        """Checks that each is a name, names or None."""
        for name in ("batch_axis", "sequence_axis", "head_axis"):
            axis = _checked_axis(name, getattr(self, name))
            object.__setattr__(self, name, axis)

    @property
    def pages_spec(self) -> "PartitionSpec":
        """How pages are split.

        They are `[num_kv_heads, num_pages_per_layer, page_size, head_dim]`.
        """
        return PartitionSpec(
            self.head_axis, self.batch_axis, self.sequence_axis, None
        )


class PartitionSpec(tuple[Axis, ...]):
    """The axes that split each dimension of an array, in order.

    Dimensions beyond the last one named stay whole.

    Args:
        axes: For each dimension a name, several names, or None.

    Raises:
        InvalidParamsError: If one is none of these.
    """

    __slots__ = ()

    def __new__(cls, *axes: object) -> Self:
        """Checks that each is a name, names or None."""
        return super().__new__(cls, (_checked_axis("spec", x) for x in axes))


@dataclass(frozen=True)
class NamedSharding:
    """Which part of an array lies on which device.

    Raises:
        InvalidParamsError: If the mesh lacks an axis, or an axis is to split
            two dimensions.
    """

    mesh: Mesh
    """The devices."""
    spec: PartitionSpec
    """The axes that split each dimension."""

    def __post_init__(self) -> None:
        """Checks the axes."""
        instance("mesh", self.mesh, Mesh)
        spec: object = self.spec
        if not isinstance(spec, (list, tuple)):
            raise InvalidParamsError(
                f"`spec` must be a PartitionSpec, got {spec!r}"
            )
        object.__setattr__(self, "spec", PartitionSpec(*spec))
        used = [name for axis in self.spec for name in _names(axis)]
        for name in used:
            if name not in self.mesh.axis_names:
                raise InvalidParamsError(
                    f"`spec` must name axes of the mesh, "
                    f"{', '.join(self.mesh.axis_names)}, got {name}"
                )
        if len(set(used)) != len(used):
            raise InvalidParamsError(
                f"`spec` must use an axis once, got {tuple(self.spec)}"
            )

    @property
    def num_shards(self) -> int:
        """How many different parts there are."""
        return math.prod(map(self.shards_of, range(len(self.spec))))

    @property
    def num_replicas(self) -> int:
        """How many devices have the same part."""
        return self.mesh.size // self.num_shards

    def shards_of(self, dimension: int) -> int:
        """Returns into how many parts a dimension is split.

        Args:
            dimension: Its number, from 0 on.
        """
        axis = self.spec[dimension] if dimension < len(self.spec) else None
        return math.prod(self.mesh.shape[name] for name in _names(axis))

    def check_even(self, name: str, size: int, dimension: int) -> None:
        """Verifies that a dimension splits into equal parts.

        Args:
            name: What the dimension counts.
            size: Its length.
            dimension: Its number, from 0 on.

        Raises:
            InvalidParamsError: If it does not.
        """
        if size % (shards := self.shards_of(dimension)):
            raise InvalidParamsError(
                f"`{name}` must be a multiple of {shards} to be split over "
                f"{self.spec[dimension]!r}, got {size}"
            )

    def parts(self, shape: tuple[int, ...]) -> list[Part]:
        """Returns what each device has of an array.

        Args:
            shape: The array's, evenly split; dimensions of length 1 stay
                whole, to be broadcast.

        Returns:
            One part for each device of the mesh, in its order.
        """
        return [
            tuple(
                self._span(dimension, size, place)
                for dimension, size in enumerate(shape)
            )
            for place in range(self.mesh.size)
        ]

    def _span(self, dimension: int, size: int, place: int) -> slice:
        """Returns what the device at a place has of one dimension."""
        shards = self.shards_of(dimension)
        if shards == 1 or size == 1:
            return slice(0, size)
        coordinates = {}
        for name in reversed(self.mesh.axis_names):
            place, coordinates[name] = divmod(place, self.mesh.shape[name])
        index = 0
        for name in _names(self.spec[dimension]):
            index = index * self.mesh.shape[name] + coordinates[name]
        share = size // shards
        return slice(index * share, (index + 1) * share)


def _names(axis: Axis) -> tuple[str, ...]:
    if axis is None:
        return ()
    return (axis,) if isinstance(axis, str) else axis


def _checked_axis(name: str, axis: object) -> Axis:
    if axis is None or (isinstance(axis, str) and axis):
        return axis
    if isinstance(axis, (list, tuple)):
        names = tuple(each for each in axis if isinstance(each, str) and each)
        if len(names) == len(axis):
            return names
    raise InvalidParamsError(
        f"`{name}` must be a name of an axis, several names or None, got "
        f"{axis!r}"
    )
