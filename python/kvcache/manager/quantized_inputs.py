"""What a graph is fed with when pages are quantised: one buffer more."""

from typing import TYPE_CHECKING, Self

from max.driver import Buffer
from max.graph import BufferType, TensorType

from kvcache.errors import NotOfferedError
from kvcache.manager.extended import Extended
from kvcache.manager.inputs import RaggedKVCacheInputs, RaggedKVCacheSymbols

if TYPE_CHECKING:
    from max.nn.kv_cache import KVCacheInputsPerDevice


_SCALES = len(RaggedKVCacheInputs._fields)


class QuantizedKVCacheInputs(Extended, RaggedKVCacheInputs):  # type: ignore[misc]
    """The inputs of a quantised cache: a fifth buffer holds the scales."""

    __slots__ = ()

    _fields = (*RaggedKVCacheInputs._fields, "scales")  # type: ignore[assignment]

    def __new__(  # noqa: PLR0917  (a tuple's, in its order)
        cls,
        blocks: Buffer,
        cache_lengths: Buffer,
        lookup_table: Buffer,
        max_lengths: Buffer,
        scales: Buffer,
    ) -> Self:
        """Makes a tuple of five.

        Args:
            blocks: The pool; its elements are codes of 8 bits.
            cache_lengths: Tokens cached before this step.
            lookup_table: Pages of each request.
            max_lengths: Longest new part and longest whole of each step left.
            scales: The pool of scales; see the property.
        """
        tables = cache_lengths, lookup_table, max_lengths
        return tuple.__new__(cls, (blocks, *tables, scales))

    @property
    def scales(self) -> Buffer:
        """Scales of the pages, under the same page ids.

        float32 `[num_pages + 1, 2, num_layers, slots, heads, groups]`; see
        `Quantization.scales_per_page`. It lives as long as the manager.
        """
        scales = tuple(self)[_SCALES]
        assert isinstance(scales, Buffer)
        return scales

    def per_device(self) -> "KVCacheInputsPerDevice[Buffer, Buffer]":
        """Raises: MAX's graphs do not read these scales.

        Raises:
            NotOfferedError: Always.
        """
        raise NotOfferedError(
            "wanted pages that MAX's graphs read, got quantised ones: feed "
            "them to the operations of `kvcache.ops`"
        )


class QuantizedKVCacheSymbols(Extended, RaggedKVCacheSymbols):  # type: ignore[misc]
    """The graph types of `QuantizedKVCacheInputs`, in its order."""

    __slots__ = ()

    _fields = (*RaggedKVCacheSymbols._fields, "scales")  # type: ignore[assignment]

    def __new__(  # noqa: PLR0917  (a tuple's, in its order)
        cls,
        blocks: BufferType,
        cache_lengths: TensorType,
        lookup_table: TensorType,
        max_lengths: TensorType,
        scales: BufferType,
    ) -> Self:
        """Makes a tuple of five.

        Args:
            blocks: The pool.
            cache_lengths: Tokens cached before this step.
            lookup_table: Pages of each request.
            max_lengths: Per step left.
            scales: The pool of scales.
        """
        tables = cache_lengths, lookup_table, max_lengths
        return tuple.__new__(cls, (blocks, *tables, scales))

    @property
    def scales(self) -> BufferType:
        """The pool of scales, which graphs write into."""
        scales = tuple(self)[_SCALES]
        assert isinstance(scales, BufferType)
        return scales
