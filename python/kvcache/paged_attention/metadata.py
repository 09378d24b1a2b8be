"""How large a cache is, from the memory that there is for it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

from kvcache.errors import InvalidParamsError, MemoryBudgetError
from kvcache.paged_attention.checks import fraction, instance, positive
from kvcache.paged_attention.documents import Document
from kvcache.paged_attention.element_types import (
    DTYPE_BYTES,
    ROW_DTYPES,
    dtype_name,
)
from kvcache.paged_attention.memory import DeviceMemory, memory_of
from kvcache.paged_attention.mesh import as_mesh
from kvcache.paged_attention.quantizer import PageQuantizer
from kvcache.paged_attention.sharding import NamedSharding, PartitionAxis
from kvcache.quantization import SCALE_BYTES
from kvcache.spec import pages_for

_SIZES = (
    "batch_size",
    "num_hidden_layers",
    "max_sequences",
    "page_size",
    "num_kv_heads",
    "kv_head_dim_size",
)
"""What a caller gives, in the order in which it is checked."""


@dataclass(frozen=True)
class PagedAttentionCacheMetaData(Document):
    """The sizes of a paged cache.

    Raises:
        InvalidParamsError: If a size is not positive, the utilisation is not
            between 0 and 1, or the pages of a sequence do not hold it.
    """

    partition_axis: PartitionAxis
    """The axes that heads, tokens and pages are split over."""
    dtype: str
    """Name of the type of keys and values; a type may be given."""
    batch_size: int
    """Sequences that are decoded at a time."""
    num_hidden_layers: int
    """Layers of the model."""
    num_pages_per_layer: int
    """Pages of one layer, over all devices; page 0 is the dummy page."""
    num_pages_per_sequence: int
    """Pages of the longest sequence."""
    max_sequences: int
    """Tokens of the longest sequence: a length, whatever the name says."""
    page_size: int
    """Tokens per page."""
    num_kv_heads: int
    """Key-value heads, over all devices."""
    kv_head_dim_size: int
    """Elements per head."""
    hbm_utilization: float
    """The part of the memory that may be in use."""
    hbm_bytes: int
    """Bytes for pages, over all devices and layers."""
    _: KW_ONLY
    quantizer: PageQuantizer | None = None
    """How pages are quantised; by default they are not."""

    def __post_init__(self) -> None:
        """Keeps the dtype's name and checks every field."""
        sizes = {name: getattr(self, name) for name in _SIZES}
        used = self.hbm_utilization
        checked = _checked(sizes, used, self.dtype, self.partition_axis)
        for name in ("num_pages_per_layer", "num_pages_per_sequence"):
            checked[name] = positive(name, getattr(self, name))
        checked["hbm_bytes"] = positive("hbm_bytes", _whole(self.hbm_bytes))
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        wanted = _pages_per_sequence(checked)
        if self.num_pages_per_sequence < wanted:
            raise InvalidParamsError(
                f"`num_pages_per_sequence` must be at least {wanted} for "
                f"{self.max_sequences} tokens, got "
                f"{self.num_pages_per_sequence}"
            )
        if self.quantizer is not None:
            instance("quantizer", self.quantizer, PageQuantizer)
            self.quantizer.num_groups(self.kv_head_dim_size)

    @classmethod
    def create(  # noqa: PLR0917  (the seed's arguments)
        cls,
        mesh: object,
        partition_axis: PartitionAxis,
        batch_size: int,
        num_hidden_layers: int,
        max_sequences: int,
        page_size: int,
        num_kv_heads: int,
        kv_head_dim_size: int,
        hbm_utilization: float,
        dtype: object = "bfloat16",
        *,
        memory: DeviceMemory | None = None,
        quantizer: PageQuantizer | None = None,
    ) -> Self:
        """Returns the sizes of the largest cache that the memory holds.

        Every device has the memory of the first one:
        `int(bytes_reservable_limit * hbm_utilization) - bytes_in_use`. Devices
        that hold the same part of the pages count once, and so does a device
        that is in the mesh several times.

        Args:
            mesh: The devices: a `Mesh`, or a `torch.distributed.DeviceMesh`.
            partition_axis: The axes that heads, tokens and pages are split
                over.
            batch_size: Sequences that are decoded at a time.
            num_hidden_layers: Layers of the model.
            max_sequences: Tokens of the longest sequence.
            page_size: Tokens per page.
            num_kv_heads: Key-value heads, over all devices.
            kv_head_dim_size: Elements per head.
            hbm_utilization: The part of the memory that may be in use.
            dtype: Type of keys and values, or its name.
            memory: Memory of the first device, by default what MAX says.
            quantizer: How pages are quantised, if they are.

        Raises:
            InvalidParamsError: If a size is not positive, the utilisation is
                not between 0 and 1, or heads or tokens of a page do not split
                evenly.
            MemoryBudgetError: If the memory does not hold the pages of one
                sequence and the dummy page.
        """
        given = [batch_size, num_hidden_layers, max_sequences, page_size]
        given += [num_kv_heads, kv_head_dim_size]
        sizes = dict(zip(_SIZES, given, strict=True))
        checked = _checked(sizes, hbm_utilization, dtype, partition_axis)
        sharding = NamedSharding(as_mesh(mesh), partition_axis.pages_spec)
        sharding.check_even("num_kv_heads", checked["num_kv_heads"], 0)
        sharding.check_even("page_size", checked["page_size"], 2)
        if memory is None:
            memory = memory_of(sharding.mesh.devices[0])
        instance("memory", memory, DeviceMemory)
        hbm_bytes = _budget(memory, checked["hbm_utilization"], sharding)
        return cls(
            **checked,
            num_pages_per_layer=_num_pages(
                checked, hbm_bytes, sharding, quantizer
            ),
            num_pages_per_sequence=_pages_per_sequence(checked),
            hbm_bytes=hbm_bytes,
            quantizer=quantizer,
        )

    @property
    def max_sequence_length(self) -> int:
        """Tokens of the longest sequence; `max_sequences` by its meaning."""
        return self.max_sequences

    @property
    def pages_shape(self) -> tuple[int, int, int, int]:
        """The shape of one layer's pages of keys, over all devices.

        `[num_kv_heads, num_pages_per_layer, page_size, head_dim]`.
        """
        return (
            self.num_kv_heads,
            self.num_pages_per_layer,
            self.page_size,
            self.kv_head_dim_size,
        )


def _checked(
    sizes: Mapping[str, object],
    hbm_utilization: object,
    dtype: object,
    partition_axis: object,
) -> dict[str, Any]:
    """Returns what a caller gives, checked in the seed's order."""
    found: dict[str, Any] = {}
    for name, value in sizes.items():
        found[name] = positive(name, value)
    found["hbm_utilization"] = fraction("hbm_utilization", hbm_utilization)
    found["dtype"] = dtype_name("dtype", dtype, ROW_DTYPES)
    instance("partition_axis", partition_axis, PartitionAxis)
    found["partition_axis"] = partition_axis
    return found


def _whole(value: object) -> object:
    """Returns a float without a fraction as an int: EasyDeL has one."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _pages_per_sequence(sizes: Mapping[str, Any]) -> int:
    return pages_for(sizes["max_sequences"], sizes["page_size"])


def _budget(
    memory: DeviceMemory, utilization: float, sharding: NamedSharding
) -> int:
    """Returns the bytes that all devices have for pages.

    A device that is in the mesh several times has its memory once.
    """
    allowed = int(memory.bytes_reservable_limit * utilization)
    if allowed <= memory.bytes_in_use:
        raise MemoryBudgetError(
            f"`hbm_utilization` must leave memory for pages: {utilization} of "
            f"{memory.bytes_reservable_limit} bytes are {allowed}, and "
            f"{memory.bytes_in_use} are in use"
        )
    (_, most), *_ = Counter(sharding.mesh.devices).most_common(1)
    return (allowed - memory.bytes_in_use) * sharding.mesh.size // most


def _num_pages(
    sizes: Mapping[str, Any],
    hbm_bytes: int,
    sharding: NamedSharding,
    quantizer: object,
) -> int:
    """Returns the pages of a layer that the memory holds."""
    page, rest = _page_bytes(sizes, quantizer)
    layer_bytes = hbm_bytes // sharding.num_replicas
    layer_bytes //= sizes["num_hidden_layers"]
    count: int = max(0, layer_bytes - rest) // page
    count -= count % sharding.shards_of(1)
    if count <= (each := _pages_per_sequence(sizes)):
        raise MemoryBudgetError(
            f"wanted memory for {each} pages of a sequence and the dummy page "
            f"in each of {sizes['num_hidden_layers']} layers, got {hbm_bytes} "
            f"bytes, which hold {count}"
        )
    return count


def _page_bytes(sizes: Mapping[str, Any], quantizer: object) -> tuple[int, int]:
    """Returns the bytes of a page of keys and values, and of what is beside.

    What is beside are scales that all pages of a layer share.
    """
    heads, head_dim = sizes["num_kv_heads"], sizes["kv_head_dim_size"]
    rest = 0
    if quantizer is None:
        token = head_dim * DTYPE_BYTES[sizes["dtype"]]
    else:
        checked = instance("quantizer", quantizer, PageQuantizer)
        token = checked.token_bytes(head_dim)
        if not checked.has_token_scales:
            rest = 2 * heads * SCALE_BYTES
    return 2 * sizes["page_size"] * heads * token, rest
