"""The tensors of one call of the decode kernel, and what a block does there."""

from max.gpu import block_idx, thread_idx
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder

from .attention_inputs import AttentionInputs
from .attention_rules import AttentionRules
from .cache import PagedKVCache
from .decode_shape import LANES, DecodeShape
from .decode_split import Run
from .ragged import RaggedBatch


struct Workspace(TrivialRegisterPassable):
    """Memory that stays between calls; zeros before the first one.

    First a counter of each block, zeros before and after a call; then parts,
    `[shares, num_kv_heads, 2, part_length]`.
    """

    var counters: Pointer[UInt32, MutUntrackedOrigin]
    """How many blocks have told their part, `[shares, teams]`."""

    var most_blocks: Int
    """The blocks that the memory is enough for, a multiple of four."""

    def __init__(
        out self,
        words: Pointer[UInt32, MutUntrackedOrigin],
        *,
        length: Int,
        per_block: Int,
    ):
        """Wraps the memory.

        Args:
            words: The memory.
            length: The 32-bit words in it.
            per_block: The words that a block wants.
        """
        self.counters = words
        self.most_blocks = length // per_block // 4 * 4

    @always_inline
    def parts(self) -> Pointer[Float32, MutUntrackedOrigin]:
        """Returns where the parts begin.

        Returns:
            The first part.
        """
        return self.counters.unsafe_offset(self.most_blocks).unsafe_bitcast[
            Float32
        ]()


struct DecodeCall[shape: DecodeShape](DevicePassable, TrivialRegisterPassable):
    """What one layer's decode attention reads and writes.

    Parameters:
        shape: What the kernel is compiled for.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    comptime CacheType = PagedKVCache[
        Self.shape.code,
        Self.shape.kv_params,
        Self.shape.page_size,
        Self.shape.quantization,
        Self.shape.block_size,
    ]
    """The view of one layer's keys or values."""

    comptime Number = Scalar[Self.shape.dtype]
    """An element of a query, or of the result."""

    var output: Pointer[Self.Number, MutUntrackedOrigin]
    """Receives the result, `[total_tokens, num_q_heads, head_dim]`."""

    var queries: Pointer[Self.Number, ImmUntrackedOrigin]
    """The queries, of the same shape."""

    var keys: Self.CacheType
    """The layer's keys, those of the new tokens included."""

    var values: Self.CacheType
    """The layer's values, those of the new tokens included."""

    var batch: RaggedBatch
    """The rows of each sequence: one new token, or none."""

    var rules: AttentionRules[Self.shape.rules]
    """What a query sees, and how its scores are formed."""

    var workspace: Workspace
    """What blocks tell each other of sequences that they share."""

    def __init__(out self, inputs: AttentionInputs[...], workspace: Workspace):
        """Collects the tensors of one call.

        Args:
            inputs: The tensors, of types that fit the shape.
            workspace: What blocks tell each other.
        """
        self.output = rebind[type_of(self.output)](inputs.output)
        self.queries = rebind[type_of(self.queries)](inputs.queries)
        self.keys = rebind[Self.CacheType](inputs.keys)
        self.values = rebind[Self.CacheType](inputs.values)
        self.batch = inputs.batch
        self.rules = rebind[type_of(self.rules)](inputs.rules)
        self.workspace = workspace

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
        return "DecodeCall"

    @always_inline
    def share(self) -> Int:
        """Returns which share of all chunks the block has.

        Returns:
            The share.
        """
        return Int(block_idx.x) // Self.shape.teams()

    @always_inline
    def first_head(self) -> Int:
        """Returns the block's first key-value head.

        Returns:
            The head.
        """
        return (Int(block_idx.x) % Self.shape.teams()) * Self.shape.heads()

    @always_inline
    def head(self) -> Int:
        """Returns the warp's key-value head.

        Returns:
            The head.
        """
        return self.first_head() + warp_index() % Self.shape.heads()

    @always_inline
    def first_query(self, seq: Int, head: Int) -> Int:
        """Returns where the queries, and results, of a group start.

        Args:
            seq: The sequence.
            head: The key-value head.

        Returns:
            The offset in elements.
        """
        var row = self.batch.start(seq) * Self.shape.num_q_heads
        return (row + head * Self.shape.group()) * Self.shape.head_dim()

    @always_inline
    def page(self, run: Run[Self.shape], chunk: Int) -> Int:
        """Returns the page in which a chunk lies.

        Args:
            run: The run that the chunk is in.
            chunk: The chunk.

        Returns:
            The page; where blocks are chosen, the block.
        """
        comptime if Self.shape.block_size:
            return self.keys.block(run.seq, self.head(), run.seen(chunk))
        var column = run.seen(chunk) // Self.shape.page_size
        var stride = Int(self.keys.lookup_table.layout.stride[0]().value())
        var page = Int(
            self.keys.lookup_table.ptr[unsafe_offset=run.seq * stride + column]
        )
        assert page < Int(self.keys.blocks.dim[0]()) - 1, "page out of range"
        return page

    @always_inline
    def place_in(self, page: Int, position: Int) -> Tuple[Int, Int]:
        """Returns where a key is, and its value.

        Args:
            page: What `page` gave for the key's chunk.
            position: The key's position, as the run counts.

        Returns:
            The page, and the slot in it.
        """
        comptime if Self.shape.block_size:
            return self.keys.place_in(page, position)
        return page, position % Self.shape.page_size

    @always_inline
    def part(
        self, *, share: Int, head: Int, is_first: Bool
    ) -> Pointer[Float32, MutUntrackedOrigin]:
        """Returns where a block tells of a sequence that others have too.

        A share begins inside at most one sequence and ends inside at most one.

        Args:
            share: The block's share.
            head: The key-value head.
            is_first: Whether the sequence begins in the share.

        Returns:
            The place of `part_length` numbers.
        """
        var slot = share * Self.shape.kv_params.num_heads + head
        return self.workspace.parts().unsafe_offset(
            (2 * slot + Int(is_first)) * Self.shape.part_length()
        )

    @always_inline
    def counter(self, share: Int) -> Pointer[UInt32, MutUntrackedOrigin]:
        """Returns the counter of a sequence that several shares have.

        Args:
            share: The share in which the sequence begins.

        Returns:
            The counter of the block's heads.
        """
        var team = Int(block_idx.x) % Self.shape.teams()
        return self.workspace.counters.unsafe_offset(
            share * Self.shape.teams() + team
        )


@always_inline
def warp_index() -> Int:
    """Returns which warp of its block a thread is in.

    Returns:
        The warp.
    """
    return Int(thread_idx.x) // LANES
