"""Brings chunks of keys and values into shared memory, ahead of their use.

Each warp has stages of its own. A chunk's rows lie end to end, their pieces of
16 bytes swizzled: the eight rows that the tensor cores take at once lie in
different banks, and every row begins at a multiple of its length. Padded rows
would do the first but not the second, and cost 7 % of the memory's rate.
"""

from max.gpu import lane_id
from max.gpu.memory import CacheEviction, async_copy, async_copy_commit_group
from max.gpu.primitives import warp
from std.memory import AddressSpace

from .decode_call import DecodeCall, warp_index
from .decode_shape import CHUNK, LANES, DecodeShape
from .decode_split import Run
from .shared_memory import PIECE_BYTES, Shared


struct Loader[shape: DecodeShape](TrivialRegisterPassable):
    """Loads a warp's chunks, in order.

    The warps that serve the same head take turns.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime ways = Self.shape.warps() // Self.shape.heads()
    """The warps that serve the same head."""

    var call: DecodeCall[Self.shape]
    """The tensors."""

    var run: Run[Self.shape]
    """The run of the next chunk; not open when there is none."""

    var chunk: Int
    """The next chunk."""

    var pages: UInt32
    """The pages of the warp's next chunks, one a lane; where blocks are chosen,
    the blocks."""

    var known: Int
    """The chunk whose page the first lane has."""

    var stages: Shared[UInt8]
    """The warp's stages."""

    var next_stage: Int
    """Where the next chunk goes, in bytes."""

    def __init__(
        out self,
        call: DecodeCall[Self.shape],
        run: Run[Self.shape],
        stages: Shared[UInt8],
    ):
        """Stands at the warp's first chunk.

        Args:
            call: The tensors.
            run: The share's first run.
            stages: The warp's stages.
        """
        self.call = call
        self.run = run
        self.stages = stages
        self.next_stage = 0
        self.pages = 0
        self.known = 0
        self.chunk = run.begin + warp_index() // Self.shape.heads()
        _ = self._find()
        self._look_up()

    @always_inline
    def load(mut self):
        """Starts to load the next chunk, if there is one."""
        if self.run.is_open():
            self._fetch()
            self.next_stage = next_stage[Self.shape](self.next_stage)
            self.chunk += Self.ways
            if self._find() or self.chunk == self.known + LANES * Self.ways:
                self._look_up()
        async_copy_commit_group()

    @always_inline
    def _find(mut self) -> Bool:
        """Goes on to the run of the next chunk; says whether it is another."""
        var is_other = False
        while self.run.is_open() and self.chunk >= self.run.end:
            self.run.next()
            self.chunk = self.run.begin + warp_index() // Self.shape.heads()
            is_other = True
        return is_other

    @always_inline
    def _look_up(mut self):
        """Reads the pages of the run's next chunks, one chunk a lane.

        One wait for the memory then serves many chunks.
        """
        self.known = self.chunk
        var own = self.chunk + Int(lane_id()) * Self.ways
        if self.run.is_open() and own < self.run.end:
            self.pages = UInt32(self.call.page(self.run, own))

    @always_inline
    def _entry(self) -> Int:
        """Returns the page, or the block, of the next chunk."""
        var lane = (self.chunk - self.known) // Self.ways
        return Int(warp.shuffle_idx(self.pages, UInt32(lane)))

    @always_inline
    def _offset(self, entry: Int, position: Int) -> Int:
        """Returns where a key of the page, or block, is, and its value."""
        comptime token = Self.shape.kv_params.num_heads * Self.shape.head_dim()
        var page, slot = self.call.place_in(entry, position)
        return (
            page * Int(self.call.keys.blocks.layout.stride[0]().value())
            + slot * token
            + self.call.head() * Self.shape.head_dim()
        )

    @always_inline
    def _fetch(self):
        var entry = self._entry()
        var position = self.run.seen(self.chunk)
        if self.run.sees_chunk(position):
            self._fetch_planes[False](entry, position)
        else:
            self._fetch_planes[True](entry, position)

    @always_inline
    def _fetch_planes[is_cut: Bool](self, entry: Int, position: Int):
        comptime width = Self.shape.head_dim() // Self.shape.pieces()
        var row, piece = divmod(Int(lane_id()), Self.shape.pieces())
        var offset = self._offset(entry, position + row) + piece * width
        var stage = self.stages.unsafe_offset(self.next_stage)
        self._fetch_rows[is_cut](
            self.call.keys.blocks.ptr.unsafe_offset(offset), stage, position
        )
        self._fetch_rows[is_cut](
            self.call.values.blocks.ptr.unsafe_offset(offset),
            stage.unsafe_offset(Self.shape.plane_bytes()),
            position,
        )
        comptime if Self.shape.is_quantized():
            self._fetch_scales(stage, entry, position)

    @always_inline
    def _fetch_rows[
        is_cut: Bool
    ](
        self,
        source: Pointer[Scalar[Self.shape.code], _],
        plane: Shared[UInt8],
        position: Int,
    ):
        """Copies the rows that are seen; the others become zeros."""
        comptime rows = LANES // Self.shape.pieces()
        comptime token = Self.shape.kv_params.num_heads * Self.shape.head_dim()
        var row, piece = divmod(Int(lane_id()), Self.shape.pieces())
        comptime for i in range(0, CHUNK, rows):
            var size = Int32(PIECE_BYTES)
            comptime if is_cut:
                if not self.run.sees(position + row + i):
                    size = 0
            async_copy[
                PIECE_BYTES,
                fill=UInt8(0),
                eviction_policy=CacheEviction.EVICT_FIRST,
            ](
                source.unsafe_offset(i * token)
                .unsafe_bitcast[UInt8]()
                .unsafe_address_space_cast[AddressSpace.GLOBAL](),
                plane.unsafe_offset(place_of[Self.shape](row + i, piece)),
                size,
            )

    @always_inline
    def _fetch_scales(self, stage: Shared[UInt8], entry: Int, position: Int):
        """Copies a key's scale to each of half the lanes, a value's to each
        of the others."""
        var kind, row = divmod(Int(lane_id()), CHUNK)
        var page, first = self.call.place_in(entry, position)
        var slot = first + row
        var head = self.call.head()
        var source = self.call.keys.scales.address(
            page=page, slot=slot, head=head
        )
        if kind == 1:
            source = self.call.values.scales.address(
                page=page, slot=slot, head=head
            )
        async_copy[4, fill=Float32(0)](
            source.unsafe_address_space_cast[AddressSpace.GLOBAL](),
            scales_in[Self.shape](stage).unsafe_offset(kind * CHUNK + row),
            Int32(4) if self.run.sees(position + row) else Int32(0),
        )


@always_inline
def next_stage[shape: DecodeShape](stage: Int) -> Int:
    """Returns the stage behind another.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        stage: Where a stage starts, in bytes.

    Returns:
        Where the next one starts; the first one follows the last.
    """
    comptime end = shape.stages() * shape.stage_bytes()
    var next = stage + shape.stage_bytes()
    return 0 if next == end else next


@always_inline
def scales_in[shape: DecodeShape](stage: Shared[UInt8]) -> Shared[Float32]:
    """Returns the scales of a chunk.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        stage: The chunk's stage.

    Returns:
        The scales of the keys, then of the values.
    """
    return stage.unsafe_offset(2 * shape.plane_bytes()).unsafe_bitcast[
        Float32
    ]()


@always_inline
def place_of[shape: DecodeShape](row: Int, piece: Int) -> Int:
    """Returns where a piece of a row lies in a plane.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        row: The key of the chunk.
        piece: The piece of 16 bytes.

    Returns:
        The offset in bytes.
    """
    var turn = row % 8
    comptime if shape.pieces() < 8:
        turn = row // 2 % 4
    return row * shape.row_bytes() + (piece ^ turn) * PIECE_BYTES
