"""Who serves which tile: blocks draw tickets, as soon as they have time."""

from max.gpu import grid_dim, lane_id
from max.gpu.primitives import warp
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.sys._assembly import inlined_assembly

from .prefill_call import PrefillCall
from .prefill_shape import PrefillShape
from .prefill_tile import Tile


struct Tickets[shape: PrefillShape](DevicePassable, TrivialRegisterPassable):
    """The tiles of all key-value heads, one after the other.

    Those of a sequence that see most keys come first, so that what is left for
    the end is small.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    var drawn: Pointer[UInt32, MutUntrackedOrigin]
    """How many tickets are drawn; zero before a call, and after it."""

    var tiles: Int32
    """The tiles of one key-value head."""

    def __init__(
        out self,
        call: PrefillCall[Self.shape],
        *,
        total_tokens: Int,
        drawn: Pointer[UInt32, MutUntrackedOrigin],
    ):
        """Counts the tiles of a call.

        Args:
            call: The tensors.
            total_tokens: The rows in the queries.
            drawn: A word that is zero.
        """
        self.drawn = drawn
        self.tiles = Int32(
            Tile[Self.shape].most_tiles(
                total_tokens=total_tokens,
                batch_size=Int(call.batch.batch_size),
            )
        )

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
        return "Tickets"

    @always_inline
    def total(self) -> Int:
        """Returns how many tickets have a tile.

        Returns:
            The tiles, some of them without rows.
        """
        return Int(self.tiles) * Self.shape.kv_params.num_heads

    @always_inline
    def draw(self) -> Int:
        """Draws a ticket; a warp calls it, until a ticket has no tile.

        Each block draws one such ticket, and the last of them sets the count
        back.

        Returns:
            The ticket.
        """
        var ticket = UInt32(0)
        if lane_id() == 0:
            ticket = inlined_assembly[
                "atom.relaxed.gpu.global.inc.u32 $0, [$1], $2;",
                UInt32,
                constraints="=r,l,r,~{memory}",
            ](self.drawn, UInt32(self.total() + Int(grid_dim.x) - 1))
        return Int(warp.broadcast(ticket))

    @always_inline
    def tile(
        self, call: PrefillCall[Self.shape], ticket: Int
    ) -> Tile[Self.shape]:
        """Returns the tile of a ticket; a warp calls it.

        Args:
            call: The tensors.
            ticket: The ticket, below `total()`.

        Returns:
            The tile; it may have no rows.
        """
        var place, head = divmod(ticket, Self.shape.kv_params.num_heads)
        return Tile[Self.shape](
            call.batch,
            call.keys.cache_lengths.ptr,
            call.rules,
            number=Int(self.tiles) - 1 - place,
            head=head,
        )
