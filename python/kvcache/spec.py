"""What one token's keys and values look like, and what they weigh."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from kvcache.errors import InvalidParamsError
from kvcache.quantization import (
    QUANTIZED_DTYPES,
    SCALE_BYTES,
    Granularity,
    Quantization,
)
from kvcache.summaries import Summaries

_DTYPE_BYTES = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "int8": 1,
    "uint8": 1,
}


class KVCacheStrategy(StrEnum):
    """How the cache lies in memory."""

    MODEL_DEFAULT = "model_default"
    """Whatever the model asks for."""
    PAGED = "paged"
    """Pages of a fixed number of tokens."""


def pages_for(num_tokens: int, page_size: int) -> int:
    """Returns how many pages of `page_size` tokens hold `num_tokens`."""
    return -(-num_tokens // page_size)


@dataclass(frozen=True)
class KVCacheParams:
    """The shape of one token's keys and values, and how they are kept.

    Raises:
        InvalidParamsError: If a size is not positive, the dtype is unknown, or
            two parameters contradict each other.
    """

    dtype: str
    """Name of the element type, such as "float32" or "bfloat16".

    A NumPy or MAX dtype may be given; its name is kept.
    """
    n_kv_heads: int
    """Key-value heads of the model, over all devices."""
    head_dim: int
    """Elements per head; of a latent, those of its rotated part as well."""
    enable_prefix_caching: bool = False
    """Whether requests share the pages of equal prefixes."""
    enable_kvcache_swapping_to_host: bool = False
    """Whether cached pages that are evicted move to host memory."""
    host_kvcache_swap_space_gb: float | None = None
    """Host memory for swapping, in GiB."""
    cache_strategy: KVCacheStrategy = KVCacheStrategy.PAGED
    """How the cache lies in memory."""
    page_size: int | None = None
    """Tokens per page; needed by the paged strategy."""
    n_devices: int = 1
    """Devices, over all replicas; those of a replica share its heads."""
    is_mla: bool = False
    """Whether one latent vector takes the place of keys and values."""
    data_parallel_degree: int = 1
    """Replicas that the devices are split into."""
    quantization: Quantization | None = None
    """Which elements share a scale; only types of 8 bits have scales.

    Without it, their pages are bytes that mean what the graphs say. The
    kernels of this package want it for such types.
    """
    summaries: Summaries | None = None
    """What is kept of each block of keys beside the pages.

    Blocks are part of a page. Latents have none.
    """

    def __post_init__(self) -> None:
        """Keeps the dtype's name and checks every parameter."""
        object.__setattr__(self, "dtype", _dtype_name(self.dtype))
        self._check_sizes()
        self._check_devices()
        self._check_strategy()
        self._check_quantization()
        self._check_summaries()

    def _check_sizes(self) -> None:
        sizes = ("n_kv_heads", "head_dim", "n_devices", "data_parallel_degree")
        for name in sizes:
            if (value := getattr(self, name)) < 1:
                raise InvalidParamsError(
                    f"{name} must be positive, got {value}"
                )
        if self.page_size is not None and self.page_size < 1:
            raise InvalidParamsError(
                f"page_size must be positive, got {self.page_size}"
            )

    def _check_devices(self) -> None:
        degree, devices = self.data_parallel_degree, self.n_devices
        if degree > devices:
            raise InvalidParamsError(
                f"data_parallel_degree must be at most n_devices, got "
                f"{degree} replicas of {devices} devices"
            )
        if devices % degree:
            raise InvalidParamsError(
                f"n_devices must be a multiple of data_parallel_degree, got "
                f"{devices} devices for {degree} replicas"
            )
        if not self.is_mla and self.n_kv_heads % self.devices_per_replica:
            raise InvalidParamsError(
                f"n_kv_heads must be a multiple of the devices of a replica, "
                f"got {self.n_kv_heads} heads for {self.devices_per_replica} "
                f"devices"
            )

    def _check_strategy(self) -> None:
        paged = self.cache_strategy == KVCacheStrategy.PAGED
        swapping = self.enable_kvcache_swapping_to_host
        if self.enable_prefix_caching and not paged:
            raise InvalidParamsError(
                f"prefix caching wants the paged strategy, got "
                f"{self.cache_strategy.value}"
            )
        if swapping and not paged:
            raise InvalidParamsError(
                f"swapping to the host wants the paged strategy, got "
                f"{self.cache_strategy.value}"
            )
        if swapping and not self.enable_prefix_caching:
            raise InvalidParamsError(
                "swapping to the host wants enable_prefix_caching=True, got "
                "False"
            )
        if swapping and self.host_kvcache_swap_space_gb is None:
            raise InvalidParamsError(
                "swapping to the host wants host_kvcache_swap_space_gb, got "
                "None"
            )
        if paged and self.page_size is None:
            raise InvalidParamsError(
                "the paged strategy wants a page_size, got None"
            )

    def _check_quantization(self) -> None:
        if self.quantization is None:
            return
        if self.dtype not in QUANTIZED_DTYPES:
            raise InvalidParamsError(
                f"quantization wants a dtype of {', '.join(QUANTIZED_DTYPES)}, "
                f"got {self.dtype}"
            )
        if self.is_mla:
            self.quantization.check_latents(self.head_dim)
        self.scales_per_page(self.quantization, self.page_size or 1)

    def _check_summaries(self) -> None:
        if self.summaries is None:
            return
        if self.is_mla:
            raise InvalidParamsError(
                "summaries want keys of heads, got is_mla=True"
            )
        if self.page_size is not None:
            _blocks_per_page(self.summaries, self.page_size)

    @property
    def dtype_bytes(self) -> int:
        """Bytes per element."""
        return _DTYPE_BYTES[self.dtype]

    @property
    def n_kv_heads_per_device(self) -> int:
        """Key-value heads that one device holds; each one has the latent."""
        if self.is_mla:
            return 1
        return self.n_kv_heads // self.devices_per_replica

    @property
    def kv_dim(self) -> int:
        """Length of the pool's second axis: keys and values, or one latent."""
        return 1 if self.is_mla else 2

    @property
    def devices_per_replica(self) -> int:
        """Devices that share the heads of one replica."""
        return self.n_devices // self.data_parallel_degree

    def copy_as_dp_1(self) -> "KVCacheParams":
        """Returns the parameters of one replica on its own."""
        return replace(
            self, n_devices=self.devices_per_replica, data_parallel_degree=1
        )

    def scales_per_page(
        self, quantization: Quantization, page_size: int
    ) -> tuple[int, int, int]:
        """Returns the shape of a page's scales for one layer's keys.

        Args:
            quantization: Which elements share a scale.
            page_size: Tokens per page.

        Returns:
            How many tokens, heads of one device, and groups of a head have
            their own.

        Raises:
            InvalidParamsError: If the groups do not divide a head.
        """
        return quantization.scales_per_page(
            page_size=page_size,
            num_kv_heads=self.n_kv_heads_per_device,
            head_dim=self.head_dim,
        )

    def bytes_per_token(self, num_layers: int) -> int:
        """Returns the bytes of one token over all layers.

        A token's own scales are counted, those of a whole page are not; nor
        are summaries, which belong to the blocks of a page.

        Args:
            num_layers: Layers of the model.

        Returns:
            Bytes over all devices of one replica.
        """
        heads = self.kv_dim * self.n_kv_heads_per_device
        size = heads * self.head_dim * self.dtype_bytes
        if (
            self.quantization is not None
            and self.quantization.granularity is Granularity.TOKEN
        ):
            _, _, groups = self.scales_per_page(self.quantization, 1)
            size += heads * groups * SCALE_BYTES
        return size * num_layers * self.devices_per_replica

    def bytes_per_page(
        self, num_layers: int, page_size: int | None = None
    ) -> int:
        """Returns the bytes of one page over all layers.

        Its scales and the summaries of its blocks are counted.

        Args:
            num_layers: Layers of the model.
            page_size: Tokens per page, if not `self.page_size`.

        Returns:
            Bytes over all devices of one replica.

        Raises:
            InvalidParamsError: If there is no page size, or blocks do not fill
                the page.
        """
        tokens = self.page_size if page_size is None else page_size
        if tokens is None:
            raise InvalidParamsError("wanted a page_size, got None")
        size = self.bytes_per_token(num_layers) * tokens
        if (
            self.quantization is not None
            and self.quantization.granularity is not Granularity.TOKEN
        ):
            scales = math.prod(self.scales_per_page(self.quantization, tokens))
            scales *= self.kv_dim * num_layers * self.devices_per_replica
            size += scales * SCALE_BYTES
        if self.summaries is not None:
            blocks = _blocks_per_page(self.summaries, tokens) * num_layers
            heads = self.n_kv_heads_per_device * self.devices_per_replica
            size += blocks * heads * self.summaries.bytes_per_block()
        return size


def _blocks_per_page(summaries: Summaries, page_size: int) -> int:
    if page_size % summaries.block_size:
        raise InvalidParamsError(
            f"summaries want a page_size that blocks of "
            f"{summaries.block_size} tokens fill, got {page_size}"
        )
    return summaries.blocks_per_page(page_size)


def _dtype_name(dtype: object) -> str:
    """Returns the name of a dtype given by name, as a class or as an object."""
    name = dtype
    if not isinstance(dtype, str):
        attribute = "__name__" if isinstance(dtype, type) else "name"
        name = getattr(dtype, attribute, None)
    if not isinstance(name, str) or name not in _DTYPE_BYTES:
        raise InvalidParamsError(
            f"dtype must be one of {', '.join(_DTYPE_BYTES)}, got {dtype!r}"
        )
    return name
