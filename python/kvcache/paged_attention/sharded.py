"""Pages that lie in parts on the devices of a mesh."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.array_documents import same_array
from kvcache.paged_attention.backend import (
    Array,
    ArrayType,
    Backend,
    Indices,
    Rows,
    backend_named,
    backend_of,
)
from kvcache.paged_attention.checks import shown
from kvcache.paged_attention.element_types import numpy_dtype
from kvcache.paged_attention.sharding import NamedSharding, Part

Shards: TypeAlias = Array | tuple[Array, ...]
"""One array, or for several devices one for each, in the mesh's order."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardedPages:
    """One layer's keys, values or scales.

    Args:
        sharding: Which part is where.
        shards: The arrays.
        shape: `[num_kv_heads, num_pages, page_size, ...]` of all together.
    """

    sharding: NamedSharding
    shards: Shards
    shape: tuple[int, ...]

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays, one for each device."""
        return _arrays(self.shards)

    @property
    def backend(self) -> Backend:
        """Whose arrays they are."""
        backend = backend_of(self.arrays[0])
        assert backend is not None, "pages are arrays"
        return backend

    @property
    def home(self) -> str:
        """The first device, where rows of all parts come together."""
        return self.sharding.mesh.devices[0]

    def store(self, page: Indices, slot: Indices, rows: Rows) -> None:
        """Writes rows, each into the parts that have it.

        Args:
            page: The page of each row, `[num_rows]`.
            slot: The slot in it of each row, `[num_rows]`.
            rows: `[num_kv_heads, num_rows, ...]`.
        """
        for part, array in self._parts():
            index, mine, place = _within(part, page, slot)
            if len(index):
                chosen = _chosen(rows[part[0]], index)
                self.backend.store(array, mine, place, chosen)

    def load(self, page: Indices, slot: Indices) -> Rows:
        """Returns copies of rows, on the first device.

        Args:
            page: The page of each row, `[num_rows]`.
            slot: The slot in it of each row, `[num_rows]`.

        Returns:
            `[num_kv_heads, num_rows, ...]`.
        """
        found: Rows = None
        done: set[tuple[tuple[int, int], ...]] = set()
        for part, array in self._parts():
            key = tuple((each.start, each.stop) for each in part)
            if key in done:
                continue
            done.add(key)
            index, mine, place = _within(part, page, slot)
            rows = self.backend.load(array, mine, place)
            rows = self.backend.rows(rows, self.home)
            if found is None:
                shape = (self.shape[0], len(page), *self.shape[3:])
                found = self.backend.codes(self.home).empty(shape, rows)
            found[part[0]][:, index] = rows
        return found

    def _parts(self) -> list[tuple[Part, Array]]:
        parts = self.sharding.parts(self.shape)
        return list(zip(parts, self.arrays, strict=True))


def zeros(
    backend: Backend,
    sharding: NamedSharding,
    dtype: str,
    shape: tuple[int, ...],
) -> Shards:
    """Returns pages of zeros.

    Args:
        backend: Whose arrays they are to be.
        sharding: Which part goes where.
        dtype: Name of the element type.
        shape: `[num_kv_heads, num_pages, page_size, ...]` of all together.

    Raises:
        InvalidParamsError: If a device is not there.
    """
    arrays = tuple(
        backend.zeros(wanted) for wanted in _types(sharding, dtype, shape)
    )
    return arrays if len(arrays) > 1 else arrays[0]


def checked(
    name: str,
    shards: object,
    sharding: NamedSharding,
    *,
    dtype: str,
    shape: tuple[int, ...],
) -> Shards:
    """Returns pages that fit.

    Args:
        name: What they are.
        shards: The arrays.
        sharding: Which part is where.
        dtype: Name of the element type.
        shape: `[num_kv_heads, num_pages, page_size, ...]` of all together.

    Raises:
        InvalidParamsError: If there are too few or too many arrays, or one has
            the wrong type, shape or device or cannot be written.
    """
    is_many = isinstance(shards, (list, tuple))
    arrays = tuple(shards) if isinstance(shards, (list, tuple)) else (shards,)
    backends = [backend_of(each) for each in arrays]
    if backends and backends[0] is backend_named("numpy"):
        dtype = numpy_dtype(dtype)
    wanted = _types(sharding, dtype, shape)
    if len(arrays) != len(wanted) or is_many != (len(wanted) > 1):
        raise InvalidParamsError(
            f"`{name}` must be one array for each of {len(wanted)} devices, "
            f"got {len(arrays) if is_many else shown(shards)}"
        )
    backend = backends[0]
    if backend is None or any(each is not backend for each in backends):
        raise InvalidParamsError(
            f"`{name}` must be arrays of NumPy, torch or MAX alike, got "
            f"{', '.join(type(each).__name__ for each in arrays)}"
        )
    for array, each in zip(arrays, wanted, strict=True):
        found = backend.describe(array)
        if found != each:
            raise InvalidParamsError(
                f"`{name}` must be {_text(each)}, got {_text(found)}"
            )
        if not backend.is_writable(array):
            raise InvalidParamsError(
                f"`{name}` must be writable, got a read-only array"
            )
    return arrays if is_many else arrays[0]


def check_together(pages: dict[str, Shards]) -> None:
    """Verifies that a layer's arrays are of one library, and none there twice.

    Args:
        pages: The arrays of each field that has some.

    Raises:
        InvalidParamsError: If they are not.
    """
    arrays = [array for shards in pages.values() for array in _arrays(shards)]
    kinds = {backend.name for x in arrays if (backend := backend_of(x))}
    if len(kinds) > 1:
        raise InvalidParamsError(
            f"{_names(pages)} must be of one library, got "
            f"{', '.join(sorted(kinds))}"
        )
    if len(set(map(id, arrays))) != len(arrays):
        raise InvalidParamsError(
            f"{_names(pages)} must be different arrays, as they are written "
            f"in place, got one twice"
        )


def same_shards(one: object, other: object) -> bool:
    """Returns whether all arrays agree to the bit; None agrees with None.

    Args:
        one: Arrays, or None.
        other: Others, or None.
    """
    if one is None or other is None:
        return one is other
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(
            same_array(mine, theirs)
            for mine, theirs in zip(one, other, strict=True)
        )
    return same_array(one, other)


def _types(
    sharding: NamedSharding, dtype: str, shape: tuple[int, ...]
) -> list[ArrayType]:
    return [
        ArrayType(dtype, tuple(each.stop - each.start for each in part), device)
        for part, device in zip(
            sharding.parts(shape), sharding.mesh.devices, strict=True
        )
    ]


def _within(
    part: Part, page: Indices, slot: Indices
) -> tuple[Indices, Indices, Indices]:
    """Returns which rows a part has, and their pages and slots in it."""
    pages, slots = part[1], part[2]
    has = (page >= pages.start) & (page < pages.stop)
    has &= (slot >= slots.start) & (slot < slots.stop)
    index = np.flatnonzero(has)
    return index, page[index] - pages.start, slot[index] - slots.start


def _chosen(rows: Rows, index: Indices) -> Rows:
    return rows if len(index) == rows.shape[1] else rows[:, index]


def _text(found: ArrayType) -> str:
    return f"{found.dtype} of shape {found.shape} on {found.device}"


def _arrays(shards: Shards) -> tuple[Array, ...]:
    return shards if isinstance(shards, tuple) else (shards,)


def _names(pages: dict[str, Shards]) -> str:
    return ", ".join(f"`{name}`" for name in pages)
