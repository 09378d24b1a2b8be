"""How the chunks of all sequences are shared out, and counted for that."""

from std.sys._assembly import inlined_assembly

comptime AT_ONCE = 8
"""The sequences whose lengths a lane reads in one wait for the memory."""


@fieldwise_init
struct Split(TrivialRegisterPassable):
    """How many chunks there are, and in how many shares."""

    var total: Int32
    """The chunks of all sequences."""

    var shares: Int32
    """The shares, each of at least one chunk."""

    @always_inline
    def begin(self, share: Int32) -> Int32:
        """Returns a share's first chunk.

        Shares differ by one chunk; the first ones have more.

        Args:
            share: The share, or the number of shares.

        Returns:
            The chunk, counted over all sequences.
        """
        var each, more = divmod(self.total, self.shares)
        return share * each + min(share, more)

    @always_inline
    def share_of(self, chunk: Int) -> Int:
        """Returns which share a chunk is in.

        Args:
            chunk: The chunk, counted over all sequences.

        Returns:
            The share.
        """
        var each, more = divmod(self.total, self.shares)
        var share = Int32(chunk) // (each + 1)
        if share >= more:
            share = (Int32(chunk) - more) // each
        return Int(share)


@always_inline
def sum_of_lanes(own: Int32) -> Int32:
    """Returns the sum over a warp.

    Args:
        own: The lane's number.

    Returns:
        The sum, in every lane.
    """
    return inlined_assembly[
        "redux.sync.add.s32 $0, $1, 0xffffffff;",
        Int32,
        constraints="=r,r",
    ](own)
