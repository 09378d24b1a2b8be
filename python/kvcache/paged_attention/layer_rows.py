"""Rows of one layer's keys, or of its values, in and out of pages."""

from dataclasses import dataclass

import numpy as np

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.backend import Array, Indices, Rows, backend_of
from kvcache.paged_attention.checks import shown
from kvcache.paged_attention.element_types import ROW_DTYPES
from kvcache.paged_attention.placing import Places
from kvcache.paged_attention.quantizer import PageQuantizer
from kvcache.paged_attention.sharded import ShardedPages

_ORIGIN: Indices = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ReadyRows:
    """Rows as pages have them, the unused ones left out."""

    rows: Rows
    """`[num_kv_heads, num_rows, head_dim]`."""
    scales: Rows | None
    """float32 `[num_kv_heads, num_rows, groups]`, if tokens have scales."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerRows:
    """One layer's keys, or its values.

    Args:
        name: "key" or "value".
        dtype: Name of the type that is read.
        pages: The pages.
        quantizer: How they are quantised, if they are.
        scales: The scales beside them, if they are.
    """

    name: str
    dtype: str
    pages: ShardedPages
    quantizer: PageQuantizer | None
    scales: ShardedPages | None

    def ready(self, array: Array, places: Places, num_rows: int) -> ReadyRows:
        """Returns rows rounded or quantised; nothing is written yet.

        Args:
            array: `[num_rows, num_kv_heads, head_dim]`.
            places: Which rows are to be written.
            num_rows: How many rows there must be.

        Raises:
            InvalidParamsError: If the array does not fit.
        """
        dtype = self.check(array, num_rows)
        rows = self.pages.backend.rows(array, self.pages.home)
        rows = rows[places.row].swapaxes(0, 1)
        codes = self.pages.backend.codes(self.pages.home)
        if self.quantizer is None:
            return ReadyRows(codes.convert(rows, dtype, self.dtype), None)
        numbers = codes.convert(rows, dtype, "float32")
        if self.quantizer.has_token_scales:
            return ReadyRows(*self.quantizer.quantise(codes, numbers, None))
        shared = self._scales(_ORIGIN, _ORIGIN)
        found, _ = self.quantizer.quantise(codes, numbers, shared)
        return ReadyRows(found, None)

    def store(self, ready: ReadyRows, places: Places) -> None:
        """Writes rows.

        Args:
            ready: What `ready` returned for the same places.
            places: Where they go.
        """
        self.pages.store(places.page, places.slot, ready.rows)
        if ready.scales is not None and self.scales is not None:
            self.scales.store(places.page, places.slot, ready.scales)

    def load(self, page: Indices, slot: Indices) -> Array:
        """Returns a copy of rows, dequantised.

        Args:
            page: The page of each row, `[num_rows]`.
            slot: The slot in it of each row, `[num_rows]`.

        Returns:
            `[num_rows, num_kv_heads, head_dim]`, of the pages' library.
        """
        rows, home = self.pages.load(page, slot), self.pages.home
        if self.quantizer is not None:
            codes = self.pages.backend.codes(home)
            if not self.quantizer.has_token_scales:
                page = slot = _ORIGIN
            scales = self._scales(page, slot)
            rows = self.quantizer.dequantise(codes, rows, scales)
            rows = codes.convert(rows, "float32", self.dtype)
        return self.pages.backend.array(rows.swapaxes(0, 1), self.dtype, home)

    def _scales(self, page: Indices, slot: Indices) -> Rows:
        assert self.scales is not None, "quantised pages have scales"
        return self.scales.load(page, slot)

    def check(self, array: Array, num_rows: int) -> str:
        """Returns the name of an array's type, if the array fits.

        Args:
            array: `[num_rows, num_kv_heads, head_dim]`.
            num_rows: How many rows there must be.

        Raises:
            InvalidParamsError: If the array does not fit.
        """
        own = self.pages.backend.name
        backend = backend_of(array)
        if backend is None or backend.name not in {"numpy", own}:
            raise InvalidParamsError(
                f"`{self.name}` must be an array of {own} or numpy, got "
                f"{shown(array)}"
            )
        text = str(array.dtype).removeprefix("torch.")
        dtype: str = getattr(array.dtype, "name", text)
        heads, _, _, head_dim = self.pages.shape
        wanted = (num_rows, heads, head_dim)
        if dtype == "uint16" and self.dtype == "bfloat16":
            dtype = self.dtype
        if dtype not in ROW_DTYPES or tuple(array.shape) != wanted:
            raise InvalidParamsError(
                f"`{self.name}` must be {', '.join(ROW_DTYPES)} of shape "
                f"{wanted}, got {dtype} of shape {tuple(array.shape)}"
            )
        return dtype
