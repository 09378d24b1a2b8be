"""What a compiled flow can do with a block and head, on a GPU."""

from std.builtin.device_passable import DevicePassable

from .shared_memory import Shared
from .team import Team
from .tile_place import BlockPlace


trait GpuSummariser(DevicePassable, TrivialRegisterPassable):
    """What a compiled flow does with one block and head."""

    comptime lanes: Int
    """The lanes of a warp that share a block and head."""

    comptime kept: Int
    """The float32 numbers that they keep in shared memory."""

    def summarise_gpu(
        self,
        team: Team[Self.lanes],
        at: BlockPlace,
        is_there: Bool,
        kept: Shared[Float32],
    ):
        """Reads the block's keys and values, and writes its summaries.

        Args:
            team: The lanes that share the block.
            at: The block.
            is_there: Whether to write; all lanes of a warp compute.
            kept: Shared memory of `kept` numbers.
        """
        ...


trait WideSummariser(GpuSummariser):
    """What does so with more lanes, too, to be done sooner."""

    comptime wide_lanes: Int
    """The lanes that share a block and head; of several warps where they need
    not talk to one another."""

    def summarise_wide(
        self,
        team: Team[Self.wide_lanes],
        at: BlockPlace,
        is_there: Bool,
        kept: Shared[Float32],
    ):
        """Reads the block's keys and values, and writes its summaries.

        Args:
            team: The lanes that share the block.
            at: The block.
            is_there: Whether to write; all lanes of a warp compute.
            kept: Shared memory of `kept` numbers.
        """
        ...


trait BlockSummariser(WideSummariser):
    """What does so with keys in shared memory, too."""

    comptime token_dtype: DType
    """The element type of the keys."""

    comptime reads_values: Bool
    """Whether it reads values, and not keys alone."""

    comptime Held: HeldSummariser
    """The same over a pool of a single block and head."""

    def held(
        self,
        at: BlockPlace,
        keys: Pointer[Scalar[Self.token_dtype], MutUntrackedOrigin],
    ) -> Self.Held:
        """Returns what summarises keys that are held elsewhere.

        Args:
            at: Where the summaries go.
            keys: The block's keys, `[block_size, head_dim]`.

        Returns:
            The same flow; its only block is the first one in every way.
        """
        ...


trait HeldSummariser(GpuSummariser):
    """What summarises keys in shared memory."""

    comptime held_lanes: Int
    """The lanes that share a block and head."""

    def summarise_held(
        self,
        team: Team[Self.held_lanes],
        at: BlockPlace,
        is_there: Bool,
        kept: Shared[Float32],
    ):
        """Reads the block's keys, and writes its summaries.

        Args:
            team: The lanes that share the block.
            at: The block.
            is_there: Whether to write; all lanes of a warp compute.
            kept: Shared memory of `kept` numbers.
        """
        ...
