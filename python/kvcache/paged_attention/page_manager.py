"""Which pages are free."""

from collections.abc import Iterable

from kvcache.core.pool import PagePool
from kvcache.errors import InsufficientPagesError, InvalidParamsError
from kvcache.paged_attention.checks import instance, integer
from kvcache.paged_attention.metadata import PagedAttentionCacheMetaData
from kvcache.paged_attention.placing import DUMMY_PAGE
from kvcache.spec import pages_for


class PagedAttentionCacheManager:
    """Hands out the pages of a cache and takes them back.

    A page that it hands out is the same page in every layer. Page 0 is the
    dummy page: it is never handed out, and giving it back does nothing, so
    that rows of a page table can be given back as they are. Pages come back
    into use in the order in which they were given back.

    Args:
        metadata: The cache's sizes.

    Raises:
        InvalidParamsError: If `metadata` is something else.
    """

    def __init__(self, metadata: PagedAttentionCacheMetaData) -> None:
        """Starts with every page but the dummy page free."""
        instance("metadata", metadata, PagedAttentionCacheMetaData)
        self.metadata = metadata
        self._pool = PagePool(
            metadata.num_pages_per_layer - 1,
            entry_of=lambda _: None,
            on_evict=lambda _: None,
            first_page=DUMMY_PAGE + 1,
        )

    @property
    def page_size(self) -> int:
        """Tokens per page."""
        return self.metadata.page_size

    @property
    def current_page_index(self) -> int:
        """The dummy page, 0."""
        return DUMMY_PAGE

    @property
    def num_free_pages(self) -> int:
        """How many pages can be handed out."""
        return self._pool.num_free

    def alloc_hbm_pages(self, num_pages: int) -> list[int]:
        """Takes some free pages, or none at all.

        Args:
            num_pages: How many.

        Returns:
            The pages; an empty list if fewer are free, or none were wanted.

        Raises:
            InvalidParamsError: If `num_pages` is no integer.
        """
        count = max(0, integer("num_pages", num_pages))
        try:
            return self._pool.allocate(count)
        except InsufficientPagesError:
            return []

    def alloc_prefill_hbm_pages(self, prefill_length: int) -> list[int]:
        """Takes the pages of a prompt, or none at all.

        Args:
            prefill_length: Tokens of the prompt.

        Returns:
            The pages; an empty list if fewer are free, or there are no tokens.

        Raises:
            InvalidParamsError: If `prefill_length` is no integer.
        """
        length = integer("prefill_length", prefill_length)
        return self.alloc_hbm_pages(pages_for(length, self.page_size))

    def free_hbm_pages(self, pages: Iterable[int]) -> None:
        """Gives pages back, all of them or none.

        Args:
            pages: Pages that were handed out, and dummy pages.

        Raises:
            InvalidParamsError: If one is no integer.
            PageStateError: If one is free already, or there twice, or there
                is no such page.
        """
        try:
            given = [integer("pages", each) for each in pages]
        except TypeError as error:
            raise InvalidParamsError(
                f"`pages` must be a list of pages, got {pages!r}"
            ) from error
        self._pool.release([each for each in given if each != DUMMY_PAGE])
