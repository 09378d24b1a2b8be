"""What a page is made of, and the buffers that have it."""

from max.driver import Buffer, Device
from max.dtype import DType

from kvcache.manager.host import host_buffer
from kvcache.spec import KVCacheParams


class PageStore:
    """One buffer of pages on a device, and one on the host if wanted.

    Args:
        page: The shape of one page.
        dtype: Its elements.
        device: Where the pages are.
        num_pages: Pages that can be handed out; the null page comes on top.
        num_host_pages: Pages that the host keeps.
    """

    def __init__(
        self,
        page: tuple[int, ...],
        dtype: DType,
        *,
        device: Device,
        num_pages: int,
        num_host_pages: int = 0,
    ) -> None:
        """Allocates the pages, those of the device all zeros."""
        self.pages = Buffer.zeros((num_pages + 1, *page), dtype, device)
        self._host_pages: Buffer | None = None
        if num_host_pages:
            shape = (num_host_pages, *page)
            self._host_pages = host_buffer(shape, dtype, device)

    @property
    def host_pages(self) -> Buffer:
        """The pages that the host keeps."""
        assert self._host_pages is not None, "there is no host tier"
        return self._host_pages

    def part(self, begin: int, count: int, is_on_host: bool) -> Buffer:
        """Returns pages that lie side by side."""
        pages = self.host_pages if is_on_host else self.pages
        inner = (slice(None),) * (pages.rank - 1)
        return pages[slice(begin, begin + count), *inner]


def page_bytes(pages: Buffer) -> int:
    """Returns the bytes of one page of a buffer `[num_pages, ...]`."""
    count = pages.num_elements // pages.shape[0]
    return int(count * pages.dtype.size_in_bytes)


def page_shape(
    params: KVCacheParams, num_layers: int, page_size: int
) -> tuple[int, ...]:
    """Returns the shape of one page on one device."""
    return (
        params.kv_dim,
        num_layers,
        page_size,
        params.n_kv_heads_per_device,
        params.head_dim,
    )


def page_parts(
    params: KVCacheParams, num_layers: int, page_size: int
) -> list[tuple[tuple[int, ...], DType]]:
    """Returns shape and type of what a page is on one device.

    Args:
        params: Shape of a token's keys and values.
        num_layers: Layers of the model.
        page_size: Tokens per page.

    Returns:
        One pair for the keys and values, one for their scales if they are
        quantised, and one for each field of the summaries.
    """
    parts: list[tuple[tuple[int, ...], DType]] = [
        (page_shape(params, num_layers, page_size), DType[params.dtype])
    ]
    if params.quantization is not None:
        scales = params.scales_per_page(params.quantization, page_size)
        parts.append(((params.kv_dim, num_layers, *scales), DType.float32))
    if (summaries := params.summaries) is not None:
        parts += [
            (
                summaries.shape_per_page(
                    field,
                    num_layers=num_layers,
                    page_size=page_size,
                    heads=params.n_kv_heads_per_device,
                ),
                DType[field.dtype],
            )
            for field in summaries.fields
        ]
    return parts
