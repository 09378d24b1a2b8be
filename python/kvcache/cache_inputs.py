"""The graph inputs that describe a cache: their types and their values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from max.dtype import DType
from max.graph import (
    BufferType,
    BufferValue,
    DeviceRef,
    StaticDim,
    TensorType,
    TensorValue,
    Value,
)

PAGE_SIZES = (16, 32, 64, 128, 256)
"""The page sizes, in tokens, that the kernels take."""

DTYPES = (DType.float32, DType.bfloat16)
"""The element types that the kernels take."""

MIN_HEAD_DIM = 8
MAX_HEAD_DIM = 256

_CPU = DeviceRef.CPU()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInputTypes:
    """The types of the four graph inputs that describe the cache.

    Iterates in the order of `PagedKVCacheManager.fetch`.

    Args:
        dtype: The element type of the pool.
        num_layers: Layers in the pool.
        page_size: Tokens per page.
        num_kv_heads: Key-value heads on this device.
        head_dim: Elements per head.
        device: Where the pool is.

    Raises:
        ValueError: If a size or the dtype is one that the kernels do not take.
    """

    dtype: DType
    num_layers: int
    page_size: int
    num_kv_heads: int
    head_dim: int
    device: DeviceRef

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            names = ", ".join(dtype.name for dtype in DTYPES)
            raise ValueError(f"dtype must be one of {names}, got {self.dtype}")
        if self.page_size not in PAGE_SIZES:
            raise ValueError(
                f"page_size must be one of {PAGE_SIZES}, got {self.page_size}"
            )
        if self.head_dim not in range(MIN_HEAD_DIM, MAX_HEAD_DIM + 1, 8):
            raise ValueError(
                f"head_dim must be a multiple of 8 from {MIN_HEAD_DIM} to"
                f" {MAX_HEAD_DIM}, got {self.head_dim}"
            )
        for name in ("num_layers", "num_kv_heads"):
            if (value := getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be positive, got {value}")

    @property
    def kv_blocks(self) -> BufferType:
        """The pool.

        `[total_num_pages, 2, num_layers, page_size, num_kv_heads, head_dim]`,
        its last page the null page.
        """
        shape: tuple[str | int, ...] = (
            "total_num_pages",
            2,
            self.num_layers,
            self.page_size,
            self.num_kv_heads,
            self.head_dim,
        )
        return BufferType(self.dtype, shape, self.device)

    @property
    def cache_lengths(self) -> TensorType:
        """Tokens cached before this step, uint32 `[batch_size]`."""
        return TensorType(DType.uint32, ["batch_size"], self.device)

    @property
    def lookup_table(self) -> TensorType:
        """Pages of each sequence, uint32 `[batch_size, num_columns]`."""
        shape = ["batch_size", "num_columns"]
        return TensorType(DType.uint32, shape, self.device)

    @property
    def max_lengths(self) -> TensorType:
        """Longest lengths of each step, uint32 `[steps_remaining, 2]`."""
        shape: list[str | int] = ["steps_remaining", 2]
        return TensorType(DType.uint32, shape, _CPU)

    def __iter__(self) -> Iterator[BufferType | TensorType]:
        """Yields the types in the order of `fetch`."""
        yield self.kv_blocks
        yield self.cache_lengths
        yield self.lookup_table
        yield self.max_lengths

    def __len__(self) -> int:
        """Returns the number of graph inputs."""
        return 4


@dataclass(frozen=True, slots=True)
class CacheInputs:
    """The four graph values that describe the cache in one step."""

    kv_blocks: BufferValue
    cache_lengths: TensorValue
    lookup_table: TensorValue
    max_lengths: TensorValue

    @classmethod
    def of(cls, values: Sequence[Value[Any]]) -> "CacheInputs":
        """Wraps graph inputs whose types came from `CacheInputTypes`.

        Args:
            values: The pool, the lengths, the table, the longest lengths.

        Raises:
            ValueError: If there are not four values.
        """
        if len(values) != 4:
            raise ValueError(f"wanted 4 cache inputs, got {len(values)}")
        blocks, lengths, table, longest = values
        return cls(blocks.buffer, lengths.tensor, table.tensor, longest.tensor)

    @property
    def num_layers(self) -> int:
        """Layers in the pool."""
        return static_dim(self.kv_blocks, 2)

    @property
    def page_size(self) -> int:
        """Tokens per page."""
        return static_dim(self.kv_blocks, 3)

    @property
    def num_kv_heads(self) -> int:
        """Key-value heads on this device."""
        return static_dim(self.kv_blocks, 4)

    @property
    def head_dim(self) -> int:
        """Elements per head."""
        return static_dim(self.kv_blocks, 5)

    @property
    def sizes(self) -> dict[str, int]:
        """What every kernel is compiled for."""
        return {
            "page_size": self.page_size,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
        }

    @property
    def tables(self) -> list[Value[Any]]:
        """The values behind the pool, in order."""
        return [self.cache_lengths, self.lookup_table, self.max_lengths]


def static_dim(value: TensorValue | BufferValue, axis: int) -> int:
    """Returns a dimension that must be known while the graph is built.

    Args:
        value: A graph value.
        axis: Which of its axes.

    Raises:
        ValueError: If there is no such axis.
        TypeError: If the dimension is symbolic.
    """
    if axis >= len(value.shape):
        raise ValueError(f"wanted more than {axis} axes, got {value.shape}")
    dim = value.shape[axis]
    if not isinstance(dim, StaticDim):
        raise TypeError(f"axis {axis} of {value.shape} must be static")
    return int(dim)
