"""Shared memory through which one warpgroup feeds the others.

Tiles, queries, keys and values have two places each, which are filled and used
in turns. Signals tell who waits for whom.
"""

from layout.tma_async import SharedMemBarrier
from max.gpu import lane_id
from max.gpu.memory import fence_async_view_proxy
from max.gpu.sync import syncwarp
from std.sys._assembly import inlined_assembly

from .prefill_shape import LANES, PrefillShape
from .prefill_tile import Tile
from .shared_memory import Shared

comptime PLACES = 2
"""The places of each kind."""

comptime QUERIES = 0
"""The kind of places that hold a tile's queries."""

comptime KEYS = 1
"""The kind of places that hold a block of keys."""

comptime VALUES = 2
"""The kind of places that hold a block of values."""

comptime TILES = 3
"""The kind of places that hold a tile."""

comptime KINDS = 4
"""How many kinds there are."""


@fieldwise_init
struct Turn(TrivialRegisterPassable):
    """How many times the places of a kind were filled, or used, so far."""

    var count: UInt32
    """The times."""

    @always_inline
    def place(self) -> Int:
        """Returns the place whose turn it is.

        Returns:
            The place.
        """
        return Int(self.count % UInt32(PLACES))

    @always_inline
    def next(self) -> Self:
        """Returns the turn after this one.

        Returns:
            The turn.
        """
        return Self(self.count + 1)

    @always_inline
    def phase(self) -> UInt32:
        """Returns what a wait for this turn's signal takes.

        Returns:
            0 and 1, by turns of the place.
        """
        return self.count // UInt32(PLACES) % 2


struct Ring[shape: PrefillShape](TrivialRegisterPassable):
    """The places and their signals.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime signals = 2 * KINDS * PLACES
    """A place's signals: it is full, it is free."""

    var memory: Shared[UInt8]
    """The places: queries, keys, values."""

    var signal: Shared[SharedMemBarrier]
    """The signals, `[2, KINDS, PLACES]`."""

    var tiles: Shared[Tile[Self.shape]]
    """The places of tiles."""

    def __init__(
        out self,
        memory: Shared[UInt8],
        signal: Shared[SharedMemBarrier],
        tiles: Shared[Tile[Self.shape]],
    ):
        """Collects where everything lies.

        Args:
            memory: `shared_bytes` of memory.
            signal: Memory for `signals` signals.
            tiles: Memory for `PLACES` tiles.
        """
        self.memory = memory
        self.signal = signal
        self.tiles = tiles

    def prepare(self):
        """Makes the signals; one thread calls it, and all wait for it."""
        comptime multipliers = Self.shape.multipliers() // LANES
        comptime others = Self.shape.threads() // LANES - 1
        comptime has_boxes = Self.shape.has_query_boxes()
        comptime for kind in range(KINDS):
            # Who starts copies of tensor memory, or writes a tile, is one thread.
            comptime by_threads = kind == QUERIES and not has_boxes
            comptime writers = Self.shape.query_loaders() if by_threads else 1
            comptime readers = others if kind == TILES else multipliers
            for place in range(PLACES):
                self.full[kind](Turn(UInt32(place)))[].init(Int32(writers))
                self._free[kind](Turn(UInt32(place)))[].init(Int32(readers))

    @always_inline
    def full[kind: Int](self, turn: Turn) -> Shared[SharedMemBarrier]:
        """Returns the signal that a place is full.

        Parameters:
            kind: What it holds.

        Args:
            turn: The turn.

        Returns:
            The signal.
        """
        return self.signal.unsafe_offset(kind * PLACES + turn.place())

    @always_inline
    def _free[kind: Int](self, turn: Turn) -> Shared[SharedMemBarrier]:
        return self.signal.unsafe_offset((KINDS + kind) * PLACES + turn.place())

    @always_inline
    def place[kind: Int](self, turn: Turn) -> Shared[UInt8]:
        """Returns the place of a turn.

        Parameters:
            kind: What it holds.

        Args:
            turn: The turn.

        Returns:
            Its first byte.
        """
        comptime queries = PLACES * Self.shape.query_bytes()
        comptime plane = Self.shape.plane_bytes()
        comptime first = 0 if kind == QUERIES else (
            queries + (kind - KEYS) * PLACES * plane
        )
        comptime bytes = Self.shape.query_bytes() if kind == QUERIES else plane
        return self.memory.unsafe_offset(first + turn.place() * bytes)

    @always_inline
    def await_free[kind: Int](self, turn: Turn):
        """Waits until a place may be filled; a warp calls it.

        Who waits must do so for every turn that it fills, and for no other.

        Parameters:
            kind: What it holds.

        Args:
            turn: The turn.
        """
        self._free[kind](turn)[].wait(turn.phase() ^ 1)
        syncwarp()

    @always_inline
    def await_full[kind: Int](self, turn: Turn):
        """Waits until the tensor cores may take what a place holds.

        Parameters:
            kind: What it holds.

        Args:
            turn: The turn.
        """
        self.full[kind](turn)[].wait(turn.phase())
        fence_async_view_proxy()

    @always_inline
    def fill_when_copied[kind: Int](self, turn: Turn):
        """Tells that a place is full when the thread's own copies are there.

        Parameters:
            kind: What it holds.

        Args:
            turn: The turn.
        """
        inlined_assembly[
            "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [$0];",
            NoneType,
            constraints="r,~{memory}",
        ](UInt32(Int(self.full[kind](turn))))

    @always_inline
    def tell(self, turn: Turn, tile: Tile[Self.shape]):
        """Tells a tile to all other warps; a warp calls it.

        Args:
            turn: The turn.
            tile: The tile; one without rows is the last.
        """
        self.await_free[TILES](turn)
        if lane_id() == 0:
            self.tiles[unsafe_offset=turn.place()] = tile
            _ = self.full[TILES](turn)[].arrive()

    @always_inline
    def take(self, turn: Turn) -> Tile[Self.shape]:
        """Waits for a tile; a warp calls it.

        Args:
            turn: The turn.

        Returns:
            The tile; one without rows if there are no more.
        """
        self.full[TILES](turn)[].wait(turn.phase())
        var tile = self.tiles[unsafe_offset=turn.place()]
        syncwarp()
        self.free[TILES](turn)
        return tile

    @always_inline
    def free[kind: Int](self, turn: Turn):
        """Tells that a warp needs a place no more.

        Parameters:
            kind: What it holds.

        Args:
            turn: The turn.
        """
        if lane_id() == 0:
            _ = self._free[kind](turn)[].arrive()
