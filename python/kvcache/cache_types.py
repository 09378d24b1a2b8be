"""The types of the graph inputs that describe a cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from max.dtype import DType
from max.graph import BufferType, DeviceRef, TensorType

from kvcache.quantization import (
    QUANTIZED_DTYPES,
    Granularity,
    Quantization,
)
from kvcache.summaries import Summaries

PAGE_SIZES = (16, 32, 64, 128, 256)
"""The page sizes, in tokens, that the kernels take."""

DTYPES = (DType.float32, DType.bfloat16, DType.float16)
"""The types that the kernels compute in: those of queries and of new rows."""

BLOCK_SIZES = PAGE_SIZES
"""The tokens of a block that summaries may be of."""

POOL_DTYPES = (*DTYPES, *(DType[name] for name in QUANTIZED_DTYPES))
"""The types of a pool's elements."""

MIN_HEAD_DIM = 8
MAX_HEAD_DIM = 256
MAX_LATENT_DIM = 576
"""The longest latent: 512 elements that are a value too, and 64 rotated ones.
"""

_CPU = DeviceRef.CPU()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInputTypes:
    """The types of the graph inputs that describe the cache.

    Iterates in the order of `PagedKVCacheManager.fetch`: four, the pool of
    scales if the cache is quantised, and a pool for each field of the
    summaries.

    Args:
        dtype: The element type of the pool.
        num_layers: Layers in the pool.
        page_size: Tokens per page.
        num_kv_heads: Key-value heads on this device.
        head_dim: Elements per head.
        device: Where the pool is.
        quantization: Which elements share a scale; for types of 8 bits, and
            for no others.
        compute_dtype: The type of queries and of new rows; that of the pool
            unless the cache is quantised.
        is_mla: Whether pages hold one latent a token, of `head_dim` elements,
            and no values. Quantised, they have scales for groups of up to 256
            elements of each token.
        summaries: What is kept of each block of keys; latents have none.

    Raises:
        ValueError: If a size or a dtype is one that the kernels do not take,
            or `quantization`, `compute_dtype`, `is_mla` or `summaries` do not
            fit the rest.
    """

    dtype: DType
    num_layers: int
    page_size: int
    num_kv_heads: int
    head_dim: int
    device: DeviceRef
    quantization: Quantization | None = None
    compute_dtype: DType | None = None
    is_mla: bool = False
    summaries: Summaries | None = None

    def __post_init__(self) -> None:
        check_one_of("dtype", self.dtype, POOL_DTYPES)
        if self.is_mla:
            self._check_latents()
        self._check_quantization()
        if self.page_size not in PAGE_SIZES:
            raise ValueError(
                f"page_size must be one of {PAGE_SIZES}, got {self.page_size}"
            )
        longest = MAX_LATENT_DIM if self.is_mla else MAX_HEAD_DIM
        if self.head_dim not in range(MIN_HEAD_DIM, longest + 1, 8):
            raise ValueError(
                f"head_dim must be a multiple of 8 from {MIN_HEAD_DIM} to"
                f" {longest}, got {self.head_dim}"
            )
        for name in ("num_layers", "num_kv_heads"):
            if (value := getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.quantization is not None:
            self._scales_per_page(self.quantization)
        if self.summaries is not None:
            self._check_summaries(self.summaries)

    def _check_latents(self) -> None:
        """Refuses what latents do not have."""
        if self.quantization is not None:
            self.quantization.check_latents(self.head_dim)
        if self.num_kv_heads != 1:
            raise ValueError(
                f"num_kv_heads must be 1 for latents, got {self.num_kv_heads}"
            )

    def _check_summaries(self, summaries: Summaries) -> None:
        """Refuses blocks that do not fill a page, or are of latents."""
        if self.is_mla:
            raise ValueError(
                f"summaries must be None for latents, got {summaries}"
            )
        summaries.blocks_per_page(self.page_size)

    def _check_quantization(self) -> None:
        """Refuses scales or types that do not fit the pool's type."""
        if self.dtype in DTYPES:
            if self.quantization is not None:
                raise ValueError(
                    f"quantization must be None for {self.dtype.name}, got "
                    f"{self.quantization}"
                )
            if self.compute_dtype not in {None, self.dtype}:
                raise ValueError(
                    f"compute_dtype must be {self.dtype.name}, got "
                    f"{self.compute_dtype}"
                )
            return
        if self.quantization is None:
            raise ValueError(f"{self.dtype.name} wants a quantization")
        check_one_of("compute_dtype", self.compute_dtype, DTYPES)

    def _scales_per_page(
        self, quantization: Quantization
    ) -> tuple[int, int, int]:
        return quantization.scales_per_page(
            page_size=self.page_size,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
        )

    @property
    def kv_dim(self) -> int:
        """Length of the pool's second axis: keys and values, or latents."""
        return 1 if self.is_mla else 2

    @property
    def row_dtype(self) -> DType:
        """The type of queries and of new rows."""
        return self.compute_dtype or self.dtype

    @property
    def kv_scales(self) -> BufferType | None:
        """The pool of scales, if the cache is quantised.

        float32 `[total_num_pages, kv_dim, num_layers, slots, heads,
        groups]`; see `Quantization.scales_per_page` for the last three.
        """
        if self.quantization is None:
            return None
        shape: tuple[str | int, ...] = (
            "total_num_pages",
            self.kv_dim,
            self.num_layers,
            *self._scales_per_page(self.quantization),
        )
        return BufferType(DType.float32, shape, self.device)

    @property
    def kv_summaries(self) -> tuple[BufferType, ...]:
        """The pool of each field of the summaries; none without.

        `[total_num_pages, num_layers, blocks_per_page, num_kv_heads, rows,
        columns]`, under the pages' ids.
        """
        if self.summaries is None:
            return ()
        sizes = {
            "num_layers": self.num_layers,
            "page_size": self.page_size,
            "heads": self.num_kv_heads,
        }
        return tuple(
            BufferType(
                DType[field.dtype],
                [
                    "total_num_pages",
                    *self.summaries.shape_per_page(field, **sizes),
                ],
                self.device,
            )
            for field in self.summaries.fields
        )

    @property
    def scales(self) -> TensorType | None:
        """What a store is given: float32 `[2, heads]` of its layer.

        None where each token has scales of its own, and without quantisation.
        """
        pool, quantization = self.kv_scales, self.quantization
        if pool is None or quantization is None:
            return None
        if quantization.granularity is Granularity.TOKEN:
            return None
        return TensorType(DType.float32, [2, pool.shape[4]], self.device)

    @property
    def kv_blocks(self) -> BufferType:
        """The pool.

        `[total_num_pages, kv_dim, num_layers, page_size, num_kv_heads,
        head_dim]`, its last page the null page.
        """
        shape: tuple[str | int, ...] = (
            "total_num_pages",
            self.kv_dim,
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
        if self.kv_scales is not None:
            yield self.kv_scales
        yield from self.kv_summaries

    def __len__(self) -> int:
        """Returns the number of graph inputs."""
        scales = self.quantization is not None
        fields = self.summaries.fields if self.summaries else ()
        return 4 + scales + len(fields)


def check_one_of(
    name: str, dtype: DType | None, wanted: Sequence[DType]
) -> None:
    """Refuses a type.

    Args:
        name: What has the type.
        dtype: The type, or none at all.
        wanted: The types that are taken.

    Raises:
        ValueError: If it is none of them.
    """
    if dtype not in wanted:
        names = ", ".join(each.name for each in wanted)
        raise ValueError(f"{name} must be one of {names}, got {dtype}")
