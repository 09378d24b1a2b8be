"""Maps a token position to its place in the page pool.

Everything here is integer arithmetic: no pointers and no devices. The pool is
row-major `[num_pages + 1, kv, num_layers, page_size, num_kv_heads, head_dim]`,
where `kv` is 0 for keys and 1 for values (MLA pools have keys only).
"""


struct PageLayout[page_size: Int, num_kv_heads: Int, head_dim: Int]:
    """Describes where one layer's keys or values lie in the page pool.

    Offsets count elements, not bytes, and are 64-bit: a pool can exceed 2**32
    elements.

    Parameters:
        page_size: The tokens per page.
        num_kv_heads: The key-value heads held on this device.
        head_dim: The elements per head.
    """

    comptime token_stride = Self.num_kv_heads * Self.head_dim
    """The elements between two consecutive tokens of one page."""

    comptime plane_stride = Self.page_size * Self.token_stride
    """The elements that one page holds for one layer's keys (or values)."""

    @staticmethod
    def page_stride(*, kv_dim: Int, num_layers: Int) -> Int:
        """Returns the elements between two consecutive pages.

        Args:
            kv_dim: 2 for keys and values, 1 for MLA.
            num_layers: The number of layers in the pool.

        Returns:
            The distance in elements.
        """
        return kv_dim * num_layers * Self.plane_stride

    @staticmethod
    def plane_offset(*, kv: Int, layer: Int, num_layers: Int) -> Int:
        """Returns where one layer's keys or values start in every page.

        Args:
            kv: 0 for keys, 1 for values.
            layer: The layer in `[0, num_layers)`.
            num_layers: The number of layers in the pool.

        Returns:
            The offset in elements from the start of a page.

        Preconditions:
            `layer` must be in range.
        """
        assert 0 <= layer < num_layers, "layer out of range"
        return (kv * num_layers + layer) * Self.plane_stride

    @staticmethod
    def offset(*, page_offset: Int, slot: Int, head: Int, dim: Int) -> Int:
        """Returns where an element lies relative to one layer's first page.

        Args:
            page_offset: The page times the page stride, in elements.
            slot: The token's place in its page, in `[0, page_size)`.
            head: The key-value head in `[0, num_kv_heads)`.
            dim: The element of the head in `[0, head_dim)`.

        Returns:
            The offset in elements.

        Preconditions:
            `slot`, `head` and `dim` must be in range.
        """
        assert 0 <= slot < Self.page_size, "slot out of range"
        assert 0 <= head < Self.num_kv_heads, "head out of range"
        assert 0 <= dim < Self.head_dim, "dim out of range"
        return (
            page_offset + slot * Self.token_stride + head * Self.head_dim + dim
        )

    @staticmethod
    def locate(position: Int) -> Tuple[Int, Int]:
        """Splits a position into a lookup-table column and a page slot.

        Args:
            position: The token's position in its sequence, from 0.

        Returns:
            The column of the sequence's `lookup_table` row, then the slot in
            that column's page.
        """
        return divmod(position, Self.page_size)
