"""Shared memory through which one warpgroup feeds the others.

Queries, keys and values have two places each, which are filled and used in
turns. Signals tell who waits for whom.
"""

from layout.tma_async import SharedMemBarrier
from max.gpu import lane_id, thread_idx
from max.gpu.memory import fence_async_view_proxy
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

comptime KINDS = 3
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
    """The tiles of the places of queries."""

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
        comptime warps = Self.shape.multipliers() // LANES
        comptime for kind in range(KINDS):
            # One thread tells that copies are under way; threads that load
            # queries themselves tell that theirs are there.
            comptime loaders = Self.shape.query_loaders()
            comptime is_loaded = (
                kind == QUERIES and not Self.shape.has_query_boxes()
            )
            comptime writers = loaders + 1 if is_loaded else 1
            for place in range(PLACES):
                self.full[kind](Turn(UInt32(place)))[].init(Int32(writers))
                self._free[kind](Turn(UInt32(place)))[].init(Int32(warps))

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
        """Waits until a place may be filled.

        Parameters:
            kind: What it holds.

        Args:
            turn: The turn.
        """
        self._free[kind](turn)[].wait(turn.phase() ^ 1)

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
    def hand_over(self, turn: Turn, tile: Tile[Self.shape]):
        """Tells a tile, as soon as its queries are there.

        Threads that load queries themselves have issued their copies before it;
        copies of tensor memory come after it.

        Args:
            turn: The turn.
            tile: The tile; one without rows is the last.
        """
        comptime has_boxes = Self.shape.has_query_boxes()
        var full = self.full[QUERIES](turn)
        comptime if not has_boxes:
            inlined_assembly[
                "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [$0];",
                NoneType,
                constraints="r,~{memory}",
            ](UInt32(Int(full)))
        if Int(thread_idx.x) == Self.shape.threads() - 1:
            self.tiles[unsafe_offset=turn.place()] = tile
            if has_boxes and not tile.is_empty():
                full[].expect_bytes(Int32(Self.shape.query_bytes()))
            else:
                _ = full[].arrive()

    @always_inline
    def await_tile(self, turn: Turn) -> Tile[Self.shape]:
        """Waits for a tile, and for its queries.

        Args:
            turn: The turn.

        Returns:
            The tile; one without rows if there are no more.
        """
        self.await_full[QUERIES](turn)
        return self.tiles[unsafe_offset=turn.place()]

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
