"""Which blocks the slots of new tokens complete, where heads come first.

In that layout a page has its heads one after the other: a tensor has a row for
each block, `(page * num_kv_heads + head) * blocks_per_page + block`. A token's
slot is `page * page_size` and its place in the page; the last slot of a block
completes it.
"""

from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder

from .tile_place import BlockPlace


struct SlotRows[page_size: Int, block_size: Int, num_kv_heads: Int](
    DevicePassable, TrivialRegisterPassable
):
    """The slots of new tokens.

    Parameters:
        page_size: The tokens per page.
        block_size: The tokens per block; it divides the page size.
        num_kv_heads: The key-value heads.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    var slots: Pointer[Int64, ImmUntrackedOrigin]
    """The slot of each new token."""

    var num_slots: Int64
    """How many they are."""

    var num_rows: Int64
    """The rows of every tensor."""

    def __init__(
        out self,
        slots: Pointer[Int64, ImmUntrackedOrigin],
        *,
        num_slots: Int,
        num_rows: Int,
    ):
        """Wraps the slots.

        Args:
            slots: The slot of each new token.
            num_slots: How many they are.
            num_rows: The rows of every tensor.
        """
        comptime assert (
            Self.page_size % Self.block_size == 0
        ), "blocks must fill a page"
        self.slots = slots
        self.num_slots = Int64(num_slots)
        self.num_rows = Int64(num_rows)

    def _to_device_type(
        self, mut encoder: Some[DeviceTypeEncoder], target: MutOpaquePointer[_]
    ):
        encoder.encode(self, target)

    @staticmethod
    def get_type_name() -> String:
        """Returns the name of this type.

        Returns:
            The name.
        """
        return "SlotRows"

    @always_inline
    def num_tiles(self) -> Int:
        """Returns how many blocks the slots complete at most, times heads.

        Returns:
            The tiles.
        """
        return Int(self.num_slots) * Self.num_kv_heads

    @always_inline
    def completes(self, tile: Int) -> Bool:
        """Returns whether a tile's slot is the last of its block.

        Args:
            tile: The slot's index times the heads, plus the head.

        Returns:
            True if it is.
        """
        var slot = self._slot(tile // Self.num_kv_heads)
        return (slot + 1) % Self.block_size == 0

    @always_inline
    def place(self, tile: Int) -> BlockPlace:
        """Returns the row of a tile's block, as the only block of a page.

        Args:
            tile: The slot's index times the heads, plus the head.

        Returns:
            The place.
        """
        comptime blocks_per_page = Self.page_size // Self.block_size
        var index, head = divmod(tile, Self.num_kv_heads)
        var page, place = divmod(self._slot(index), Self.page_size)
        var row = (
            page * Self.num_kv_heads + head
        ) * blocks_per_page + place // Self.block_size
        assert 0 <= row and row < Int(self.num_rows), "slot out of range"
        return BlockPlace(page=row, block=0, layer=0, head=0)

    @always_inline
    def _slot(self, index: Int) -> Int:
        return Int(self.slots.unsafe_load[invariant=False](index))
