"""What is kept of each block of keys beside the pages."""

import math
from dataclasses import dataclass

SUMMARY_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per element of the types that summaries may have."""


@dataclass(frozen=True, slots=True)
class SummaryField:
    """One array that is kept of each block, layer and key-value head.

    Raises:
        ValueError: If an extent is not positive, the type is another, or the
            name is no identifier, or one of the pages' own.
    """

    name: str
    """How flows call it."""
    rows: int
    """Rows of the array."""
    columns: int
    """Columns of the array."""
    dtype: str = "bfloat16"
    """Element type."""

    def __post_init__(self) -> None:
        """Checks every value."""
        if not self.name.isidentifier() or self.name in {"k", "v"}:
            raise ValueError(
                f"wanted a name other than k and v, got {self.name!r}"
            )
        if self.rows < 1 or self.columns < 1:
            raise ValueError(
                f"{self.name}: wanted positive extents, got "
                f"({self.rows}, {self.columns})"
            )
        if self.dtype not in SUMMARY_BYTES:
            raise ValueError(
                f"{self.name}: wanted one of {', '.join(SUMMARY_BYTES)}, got "
                f"{self.dtype!r}"
            )


@dataclass(frozen=True, slots=True)
class Summaries:
    """What is kept of each block, further leaves of the pool.

    Raises:
        ValueError: If the block is not a power of two of at least 16 tokens,
            there is no field, or two have one name.
    """

    block_size: int
    """Tokens of a block; it divides the page size."""
    fields: tuple[SummaryField, ...]
    """The arrays, in the order in which graphs take them."""

    def __post_init__(self) -> None:
        """Checks every value."""
        size = self.block_size
        if size < 16 or size & (size - 1):
            raise ValueError(
                f"block_size must be a power of two from 16 on, got {size}"
            )
        names = [field.name for field in self.fields]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"wanted fields of different names, got {names}")

    def blocks_per_page(self, page_size: int) -> int:
        """Returns the blocks of a page.

        Raises:
            ValueError: If blocks do not fill a page.
        """
        if page_size % self.block_size:
            raise ValueError(
                f"wanted a page_size that {self.block_size} divides, got "
                f"{page_size}"
            )
        return page_size // self.block_size

    def shape_per_page(
        self,
        field: SummaryField,
        *,
        num_layers: int,
        page_size: int,
        heads: int,
    ) -> tuple[int, int, int, int, int]:
        """Returns the shape of one field in a page.

        Args:
            field: One of the fields.
            num_layers: Layers of the model.
            page_size: Tokens per page.
            heads: Key-value heads of one device.

        Returns:
            `(num_layers, blocks_per_page, heads, rows, columns)`.
        """
        blocks = self.blocks_per_page(page_size)
        return num_layers, blocks, heads, field.rows, field.columns

    def bytes_per_block(self) -> int:
        """Returns the bytes of one block of one layer and head."""
        return sum(
            math.prod((field.rows, field.columns, SUMMARY_BYTES[field.dtype]))
            for field in self.fields
        )
