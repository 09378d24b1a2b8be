"""The graph inputs that describe a cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from max.dtype import DType
from max.graph import BufferValue, StaticDim, TensorValue, Value

from kvcache.cache_types import BLOCK_SIZES, DTYPES
from kvcache.quantization import (
    LONGEST_LATENT_GROUP,
    Granularity,
    group_sizes,
)


@dataclass(frozen=True, slots=True)
class CacheInputs:
    """The graph values that describe the cache in one step.

    Raises:
        ValueError: If a pool of 8 bits has no scales, or another has some,
            pages hold neither keys and values nor one latent a token, or
            summaries are not of blocks of these pages.
        TypeError: If a size of a page is symbolic.
    """

    kv_blocks: BufferValue
    cache_lengths: TensorValue
    lookup_table: TensorValue
    max_lengths: TensorValue
    kv_scales: BufferValue | None = None
    summaries: tuple[BufferValue, ...] = ()

    def __post_init__(self) -> None:
        self._check_pages()
        dtype = self.kv_blocks.dtype
        if (dtype in DTYPES) != (self.kv_scales is None):
            wanted = "no scales" if dtype in DTYPES else "scales"
            raise ValueError(f"a pool of {dtype.name} wants {wanted}")
        if self.kv_scales is not None:
            self._check_scales(self.kv_scales)
        for field in self.summaries:
            self._check_summary(field)

    def _check_pages(self) -> None:
        """Refuses pages that hold something else."""
        if self.kv_dim not in {1, 2}:
            raise ValueError(
                "wanted pages of keys and values (2) or of latents (1), got"
                f" {self.kv_dim}"
            )
        if self.is_mla and self.num_kv_heads != 1:
            raise ValueError(f"latents want one head, got {self.num_kv_heads}")

    def _check_scales(self, scales: BufferValue) -> None:
        """Refuses scales that do not belong to pages of this shape."""
        shape = list(scales.shape)
        pages = list(self.kv_blocks.shape[:3])
        page_size, num_heads = self.page_size, self.num_kv_heads
        wanted = [] if self.is_mla else [[1, 1, 1], [1, num_heads, 1]]
        wanted += [
            [page_size, num_heads, self.head_dim // size]
            for size in group_sizes(self.head_dim)
            if not self.is_mla or size <= LONGEST_LATENT_GROUP
        ]
        fits = shape[:3] == pages and shape[3:] in wanted
        if scales.dtype != DType.float32 or not fits:
            raise ValueError(
                f"kv_scales must be float32 {pages} and then one of {wanted},"
                f" got {scales.dtype.name} {shape}"
            )

    def _check_summary(self, field: BufferValue) -> None:
        """Refuses a summary that is not of blocks of these pages."""
        if self.is_mla:
            raise ValueError(f"latents have no summaries, got {field.shape}")
        shape, pages = list(field.shape), self.kv_blocks.shape
        blocks = [
            self.page_size // size
            for size in BLOCK_SIZES
            if self.page_size % size == 0
        ]
        fits = (
            len(shape) == 6
            and [shape[0], shape[1], shape[3]] == [pages[0], pages[2], pages[4]]
            and shape[2] in blocks
            and shape[2] == self.summaries[0].shape[2]
            and all(isinstance(dim, StaticDim) for dim in shape[4:])
        )
        if field.dtype not in DTYPES or not fits:
            of = self.kv_blocks.dtype
            hint = f"; a pool of {of.name} wants no scales"
            hint = hint if of in DTYPES else ""
            raise ValueError(
                f"a summary must be float32, bfloat16 or float16 [{pages[0]},"
                f" {pages[2]}, one of {blocks} for all, {pages[4]}, rows,"
                f" columns], got {field.dtype.name} {shape}{hint}"
            )

    @classmethod
    def of(cls, values: Sequence[Value[Any]]) -> "CacheInputs":
        """Wraps graph inputs whose types came from `CacheInputTypes`.

        Args:
            values: The pool, the lengths, the table, the longest lengths, the
                scales if the cache is quantised, and the summaries.

        Raises:
            ValueError: If values are missing, or do not fit the pool.
        """
        if len(values) < 4:
            raise ValueError(
                f"wanted 4 cache inputs, or more with scales and summaries, got"
                f" {len(values)}"
            )
        blocks, lengths, table, longest, *further = values
        pools = [value.buffer for value in further]
        is_plain = blocks.buffer.dtype in DTYPES
        return cls(
            blocks.buffer,
            lengths.tensor,
            table.tensor,
            longest.tensor,
            None if is_plain or not pools else pools.pop(0),
            tuple(pools),
        )

    @property
    def kv_dim(self) -> int:
        """Length of the pool's second axis: keys and values, or latents."""
        return static_dim(self.kv_blocks, 1)

    @property
    def is_mla(self) -> bool:
        """Whether pages hold one latent a token and no values."""
        return self.kv_dim == 1

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
        sizes = {"page_size": self.page_size, "head_dim": self.head_dim}
        if not self.is_mla:
            sizes["num_kv_heads"] = self.num_kv_heads
        if self.kv_scales is not None:
            groups = static_dim(self.kv_scales, 5)
            sizes["granularity"] = self.granularity(self.kv_scales).number
            sizes["group_size"] = self.head_dim // groups
        return sizes

    def granularity(self, kv_scales: BufferValue) -> Granularity:
        """Returns the granularity that scales of this shape have.

        A single head's scale counts as the tensor's: it lies where that lies.
        """
        if static_dim(kv_scales, 3) > 1:
            return Granularity.TOKEN
        if static_dim(kv_scales, 4) > 1:
            return Granularity.HEAD
        return Granularity.TENSOR

    @property
    def block_size(self) -> int:
        """Tokens of a block, which each summary is of.

        Raises:
            ValueError: If there are no summaries.
        """
        if not self.summaries:
            raise ValueError("wanted a cache with summaries, got none")
        return self.page_size // static_dim(self.summaries[0], 2)

    @property
    def pools(self) -> list[BufferValue]:
        """The pool and, if there is one, the pool of scales.

        What reads and writes tokens takes these, and no summaries.
        """
        scales = [] if self.kv_scales is None else [self.kv_scales]
        return [self.kv_blocks, *scales]

    def op(self, name: str) -> str:
        """Returns the name of the op that works on these pools."""
        if self.is_mla:
            name = f"{name}_latents"
        return name if self.kv_scales is None else f"{name}_quantized"

    @property
    def values(self) -> list[Value[Any]]:
        """All of them, in the order of `CacheInputTypes`."""
        scales = [] if self.kv_scales is None else [self.kv_scales]
        return [self.kv_blocks, *self.tables, *scales, *self.summaries]

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
