"""How pages of 8 bits are made from keys and values."""

from dataclasses import dataclass, field

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.backend import Codes, Rows
from kvcache.paged_attention.checks import instance
from kvcache.paged_attention.element_types import dtype_name
from kvcache.quantization import (
    QUANTIZED_DTYPES,
    SCALE_BYTES,
    Granularity,
    Quantization,
)


@dataclass(frozen=True)
class PageQuantizer:
    """Quantises keys and values when they are written.

    Pages then hold codes of 8 bits with scales beside them, as those of our
    kernels do. What is read is dequantised.

    Raises:
        InvalidParamsError: If the type is not one of 8 bits.
    """

    dtype: str = "int8"
    """Name of the codes' type; a type of NumPy, torch or MAX may be given."""
    quantization: Quantization = field(default_factory=Quantization)
    """Which elements share a scale."""

    def __post_init__(self) -> None:
        """Keeps the type's name."""
        name = dtype_name("dtype", self.dtype, QUANTIZED_DTYPES)
        object.__setattr__(self, "dtype", name)
        instance("quantization", self.quantization, Quantization)

    @property
    def has_token_scales(self) -> bool:
        """Whether each token has scales of its own, taken from its numbers."""
        return self.quantization.granularity is Granularity.TOKEN

    def num_groups(self, head_dim: int) -> int:
        """Returns how many parts of a head have scales of their own.

        Args:
            head_dim: Elements per head.

        Raises:
            InvalidParamsError: If a head cannot have such groups.
        """
        *_, groups = self.quantization.scales_per_page(
            page_size=1, num_kv_heads=1, head_dim=head_dim
        )
        return groups

    def scales_shape(
        self, pages_shape: tuple[int, int, int, int]
    ) -> tuple[int, int, int, int]:
        """Returns the shape of the scales of some pages.

        Args:
            pages_shape: `[num_kv_heads, num_pages, page_size, head_dim]`.

        Returns:
            `[num_kv_heads, num_pages, page_size, groups]` where tokens have
            their own, else `[num_kv_heads, 1, 1, 1]`.
        """
        heads, pages, page_size, head_dim = pages_shape
        if self.has_token_scales:
            return heads, pages, page_size, self.num_groups(head_dim)
        return heads, 1, 1, 1

    def token_bytes(self, head_dim: int) -> int:
        """Returns the bytes of one head of one token, its scales included.

        Args:
            head_dim: Elements per head.
        """
        if self.has_token_scales:
            return head_dim + SCALE_BYTES * self.num_groups(head_dim)
        return head_dim

    def quantise(
        self, codes: Codes, numbers: Rows, scales: Rows | None
    ) -> tuple[Rows, Rows]:
        """Returns codes and the scales that go with them.

        Args:
            codes: The arithmetic.
            numbers: float32 `[num_kv_heads, num_rows, head_dim]`.
            scales: float32 `[num_kv_heads, 1, 1]`, or None where tokens have
                their own.

        Returns:
            Codes `[num_kv_heads, num_rows, head_dim]` and float32
            `[num_kv_heads, num_rows or 1, groups]`.

        Raises:
            InvalidParamsError: If a number is infinite or NaN.
        """
        if not codes.all_finite(numbers):
            raise InvalidParamsError(
                "wanted finite keys and values to quantise, got an infinity "
                "or NaN"
            )
        grouped = self._grouped(numbers)
        if scales is None:
            scales = codes.scales_of(grouped, self.dtype)
        found = codes.quantise(grouped, scales, self.dtype)
        return found.reshape(numbers.shape), scales

    def dequantise(self, codes: Codes, rows: Rows, scales: Rows) -> Rows:
        """Returns the numbers that codes mean, float32.

        Args:
            codes: The arithmetic.
            rows: Codes `[num_kv_heads, num_rows, head_dim]`.
            scales: float32 `[num_kv_heads, num_rows or 1, groups]`.
        """
        grouped = self._grouped(rows)
        found = codes.dequantise(grouped, scales, self.dtype)
        return found.reshape(rows.shape)

    def _grouped(self, rows: Rows) -> Rows:
        heads, num_rows, head_dim = rows.shape
        groups = self.num_groups(head_dim)
        return rows.reshape(heads, num_rows, groups, head_dim // groups)
