"""The pages of one layer."""

from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Self

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.backend import Array, backend_named
from kvcache.paged_attention.checks import instance, integer
from kvcache.paged_attention.documents import Document
from kvcache.paged_attention.layer_rows import LayerRows
from kvcache.paged_attention.making import (
    check_split,
    chosen_quantizer,
    given_scales,
    made_arrays,
    write_scales,
)
from kvcache.paged_attention.mesh import as_mesh
from kvcache.paged_attention.metadata import PagedAttentionCacheMetaData
from kvcache.paged_attention.placing import (
    Places,
    decode_places,
    places_of,
    prefill_places,
    read_places,
)
from kvcache.paged_attention.quantizer import PageQuantizer
from kvcache.paged_attention.sharded import (
    ShardedPages,
    Shards,
    check_together,
    checked,
    same_shards,
)
from kvcache.paged_attention.sharding import NamedSharding, PartitionSpec
from kvcache.paged_attention.step import PagedAttentionMetadata


@dataclass(eq=False)
class PagedAttentionCacheView(Document):
    """The pages of one layer's keys and values.

    Raises:
        InvalidParamsError: If a field is not what it must be, or does not fit
            the others.
    """

    metadata: PagedAttentionCacheMetaData
    """The cache's sizes."""
    layer_index: int
    """The layer, from 0 on."""
    key_pages: Shards = field(repr=False)
    """`[num_kv_heads, num_pages_per_layer, page_size, head_dim]`.

    One array, or on several devices a tuple with the part of each.
    """
    value_pages: Shards = field(repr=False)
    """As `key_pages`."""
    kv_pages_sharding: NamedSharding
    """Which part is on which device."""
    _: KW_ONLY
    quantizer: PageQuantizer | None = None
    """How pages are quantised; their type is then that of its codes."""
    key_scales: Shards | None = field(default=None, repr=False)
    """float32, as many as `PageQuantizer.scales_shape` says."""
    value_scales: Shards | None = field(default=None, repr=False)
    """As `key_scales`."""

    def __post_init__(self) -> None:
        """Checks every field."""
        instance("metadata", self.metadata, PagedAttentionCacheMetaData)
        self.layer_index = integer("layer_index", self.layer_index)
        if self.layer_index not in range(self.metadata.num_hidden_layers):
            raise InvalidParamsError(
                f"`layer_index` must be from 0 to "
                f"{self.metadata.num_hidden_layers - 1}, got {self.layer_index}"
            )
        instance("kv_pages_sharding", self.kv_pages_sharding, NamedSharding)
        check_split(self.metadata, self.kv_pages_sharding)
        if chosen_quantizer(self.metadata, self.quantizer) != self.quantizer:
            raise InvalidParamsError(
                "`quantizer` must be the one of `metadata`, got None"
            )
        names = ["key_pages", "value_pages"]
        scales = ["key_scales", "value_scales"]
        if self.quantizer is None:
            for name in scales:
                if getattr(self, name) is not None:
                    raise InvalidParamsError(
                        f"`{name}` must be None without a quantizer"
                    )
        else:
            names += scales
        for name in names:
            setattr(self, name, self._checked(name))
        check_together({name: getattr(self, name) for name in names})

    @classmethod
    def init(  # noqa: PLR0917  (the seed's arguments)
        cls,
        mesh: object,
        metadata: PagedAttentionCacheMetaData,
        layer_index: int,
        quantizer: PageQuantizer | None = None,
        kv_pages_sharding: PartitionSpec | None = None,
        *,
        backend: str = "max",
        scales: object = None,
    ) -> Self:
        """Returns the pages of one layer, all zeros.

        Args:
            mesh: The devices: a `Mesh`, or a `torch.distributed.DeviceMesh`.
            metadata: The cache's sizes.
            layer_index: The layer, from 0 on.
            quantizer: How pages are quantised, by default as `metadata` says.
            kv_pages_sharding: The axes that split heads, pages and slots, by
                default those of `metadata.partition_axis`.
            backend: Whose arrays pages are: "max", "torch" or "numpy".
            scales: Scales of keys and of values, `[2, num_kv_heads]` or
                `[2, 1]`, if the quantizer takes none from the numbers.

        Raises:
            InvalidParamsError: If the pages do not split evenly, or a device
                is not there, or an argument is wrong.
            MissingPackageError: If the backend's library is not installed.
        """
        instance("metadata", metadata, PagedAttentionCacheMetaData)
        chosen = chosen_quantizer(metadata, quantizer)
        given = given_scales(scales, metadata, chosen)
        spec = kv_pages_sharding
        if spec is None:
            spec = metadata.partition_axis.pages_spec
        sharding = NamedSharding(as_mesh(mesh), spec)
        check_split(metadata, sharding)
        arrays = made_arrays(backend_named(backend), metadata, sharding, chosen)
        view = cls(
            metadata=metadata,
            layer_index=layer_index,
            kv_pages_sharding=sharding,
            quantizer=chosen,
            **arrays,
        )
        if given is not None:
            for name, each in zip(("key", "value"), given, strict=True):
                write_scales(view._pages(f"{name}_scales"), each)
        return view

    def concatenate_to_cache(
        self, key: Array, value: Array, metadata: PagedAttentionMetadata
    ) -> tuple[Shards, Shards]:
        """Writes a step's keys and values: a prompt's, a batch's, or both.

        Rows of the prompt come first, those of the batch follow. Padding,
        unused places of the batch and rows whose page is the dummy page 0 are
        not written. A call that raises has written nothing.

        Args:
            key: `[num_rows, num_kv_heads, head_dim]`, an array of the pages'
                library or of NumPy, float32, float16 or bfloat16; rounded to
                the type of the pages.
            value: As `key`.
            metadata: Where the rows go.

        Returns:
            `key_pages` and `value_pages`, which were changed in place: views
            that share the arrays see it too.

        Raises:
            InvalidParamsError: If arrays, positions or tables do not fit.
            PageStateError: If there is no such page.
        """
        step = instance("metadata", metadata, PagedAttentionMetadata)
        num_rows = step.num_prefill_rows + step.num_decode_rows
        self._write(key, value, places_of(step, self.metadata), num_rows)
        return self.key_pages, self.value_pages

    def write_prefill_to_cache(
        self, key: Array, value: Array, metadata: PagedAttentionMetadata
    ) -> None:
        """Writes a prompt's keys and values, padding left out.

        Args:
            key: `[padded_length, num_kv_heads, head_dim]`, a multiple of
                `page_size` rows; see `concatenate_to_cache`.
            value: As `key`.
            metadata: A step with a prompt.

        Raises:
            InvalidParamsError: If arrays, positions or the table do not fit.
            PageStateError: If there is no such page.
        """
        step = instance("metadata", metadata, PagedAttentionMetadata)
        places = prefill_places(step, self.metadata)
        self._write(key, value, places, step.num_prefill_rows)

    def write_generate_to_cache(
        self, key: Array, value: Array, metadata: PagedAttentionMetadata
    ) -> None:
        """Writes one token's keys and values for each sequence of a batch.

        Args:
            key: `[batch, num_kv_heads, head_dim]`; see `concatenate_to_cache`.
            value: As `key`.
            metadata: A step with a batch.

        Raises:
            InvalidParamsError: If arrays, positions or the table do not fit.
            PageStateError: If there is no such page.
        """
        step = instance("metadata", metadata, PagedAttentionMetadata)
        places = decode_places(step, self.metadata)
        self._write(key, value, places, step.num_decode_rows)

    def read_from_cache(
        self, page_table: object, length: int
    ) -> tuple[Array, Array]:
        """Returns copies of a sequence's keys and values, dequantised.

        Args:
            page_table: The sequence's pages in order, at least
                `[ceil(length / page_size)]`.
            length: Tokens of the sequence.

        Returns:
            Keys and values `[length, num_kv_heads, head_dim]`, arrays of the
            pages' library on the first device, of `metadata.dtype`; NumPy has
            float32 in place of bfloat16.

        Raises:
            InvalidParamsError: If the table is too short.
            PageStateError: If there is no such page.
        """
        page, slot = read_places(page_table, length, self.metadata)
        keys, values = self._rows("key"), self._rows("value")
        return keys.load(page, slot), values.load(page, slot)

    def __eq__(self, other: object) -> bool:
        """Returns whether all fields agree, arrays to the bit."""
        if type(other) is not type(self):
            return NotImplemented
        arrays = {"key_pages", "value_pages", "key_scales", "value_scales"}
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if each.name in arrays:
                if not same_shards(mine, theirs):
                    return False
            elif mine != theirs:
                return False
        return True

    __hash__ = None  # type: ignore[assignment]

    def _rows(self, name: str) -> LayerRows:
        """Returns the layer's keys or values, to be written or read."""
        is_quantised = self.quantizer is not None
        return LayerRows(
            name,
            self.metadata.dtype,
            self._pages(f"{name}_pages"),
            self.quantizer,
            self._pages(f"{name}_scales") if is_quantised else None,
        )

    def _pages(self, name: str) -> ShardedPages:
        _, shape = self._wanted(name)
        shards = getattr(self, name)
        return ShardedPages(self.kv_pages_sharding, shards, shape)

    def _wanted(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Returns the type and the shape of pages or scales."""
        quantizer, shape = self.quantizer, self.metadata.pages_shape
        if quantizer is None:
            return self.metadata.dtype, shape
        if name.endswith("scales"):
            return "float32", quantizer.scales_shape(shape)
        return quantizer.dtype, shape

    def _checked(self, name: str) -> Shards:
        """Returns the arrays of a field, if they fit."""
        dtype, shape = self._wanted(name)
        return checked(
            name,
            getattr(self, name),
            self.kv_pages_sharding,
            dtype=dtype,
            shape=shape,
        )

    def _write(
        self, key: Array, value: Array, places: Places, num_rows: int
    ) -> None:
        """Writes rows; all are made ready before the first is written."""
        keys, values = self._rows("key"), self._rows("value")
        ready_keys = keys.ready(key, places, num_rows)
        ready_values = values.ready(value, places, num_rows)
        keys.store(ready_keys, places)
        values.store(ready_values, places)
