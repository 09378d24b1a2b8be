"""The pages of all layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.checks import integer, shown
from kvcache.paged_attention.documents import Document
from kvcache.paged_attention.metadata import PagedAttentionCacheMetaData
from kvcache.paged_attention.quantizer import PageQuantizer
from kvcache.paged_attention.sharding import PartitionSpec
from kvcache.paged_attention.view import PagedAttentionCacheView


@dataclass
class PagedAttentionCache(Document):
    """The pages of all layers, one view each.

    One page number means the same page in every layer. Caches are equal if
    their views are, to the bit.

    Raises:
        InvalidParamsError: If `views` are not views or None.
    """

    views: list[PagedAttentionCacheView | None]
    """The view of each layer; None where there is none yet."""

    def __post_init__(self) -> None:
        """Keeps the views as a list."""
        if not isinstance(self.views, (list, tuple)):
            raise InvalidParamsError(
                f"`views` must be a list of views, got {shown(self.views)}"
            )
        for index, view in enumerate(self.views):
            if view is not None and not isinstance(
                view, PagedAttentionCacheView
            ):
                raise InvalidParamsError(
                    f"`views[{index}]` must be a PagedAttentionCacheView, got "
                    f"{shown(view)}"
                )
        self.views = list(self.views)

    @classmethod
    def init_cache(
        cls,
        mesh: object,
        metadata: PagedAttentionCacheMetaData,
        quantizer: PageQuantizer | None = None,
        kv_pages_sharding: PartitionSpec | None = None,
        *,
        backend: str = "max",
        scales: object = None,
    ) -> Self:
        """Returns a cache with a view for each layer, its pages all zeros.

        Args:
            mesh: The devices: a `Mesh`, or a `torch.distributed.DeviceMesh`.
            metadata: The cache's sizes.
            quantizer: How pages are quantised, by default as `metadata` says.
            kv_pages_sharding: The axes that split heads, pages and slots, by
                default those of `metadata.partition_axis`.
            backend: Whose arrays pages are: "max", "torch" or "numpy".
            scales: Scales of each layer's keys and values, `[num_layers, 2,
                num_kv_heads]` or `[num_layers, 2, 1]`, if the quantizer takes
                none from the numbers.

        Raises:
            InvalidParamsError: If the pages do not split evenly, or a device
                is not there, or an argument is wrong.
            MissingPackageError: If the backend's library is not installed.
        """
        if not isinstance(metadata, PagedAttentionCacheMetaData):
            raise InvalidParamsError(
                f"`metadata` must be a PagedAttentionCacheMetaData, got "
                f"{shown(metadata)}"
            )
        layers = metadata.num_hidden_layers
        each: Sequence[object] = [None] * layers
        if scales is not None:
            found = np.asarray(scales)
            if found.shape[:1] != (layers,):
                raise InvalidParamsError(
                    f"`scales` must have {layers} layers, got shape "
                    f"{found.shape}"
                )
            each = list(found)
        return cls(
            [
                PagedAttentionCacheView.init(
                    mesh,
                    metadata,
                    layer,
                    quantizer,
                    kv_pages_sharding,
                    backend=backend,
                    scales=each[layer],
                )
                for layer in range(layers)
            ]
        )

    @classmethod
    def init_empty(cls, num_hidden_layers: int = 0) -> Self:
        """Returns a cache whose views are still to be made.

        Args:
            num_hidden_layers: How many views it has, each None.

        Raises:
            InvalidParamsError: If that is negative.
        """
        if integer("num_hidden_layers", num_hidden_layers) < 0:
            raise InvalidParamsError(
                f"`num_hidden_layers` must not be negative, got "
                f"{num_hidden_layers}"
            )
        return cls([None] * num_hidden_layers)
