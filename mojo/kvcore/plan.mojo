"""What one sequence will get, worked out before anything changes."""

comptime NO_PARTIAL = -1
"""The partial page of a plan without one."""


@fieldwise_init
struct Plan(TrivialRegisterPassable):
    """What one sequence will get, while nothing has changed yet."""

    var seq: Int
    """The sequence."""
    var committed: Int
    """Findable pages that it holds."""
    var held: Int
    """Pages that it holds."""
    var first_hit: Int
    """Where its hits begin among those of the call."""
    var num_hits: Int
    """Pages found behind the committed ones."""
    var partial: Int
    """The page whose beginning continues the hits, or `NO_PARTIAL`."""
    var partial_length: Int
    """Tokens of that beginning."""
    var copied: Int
    """The begun page that others may read and the steps write, or -1."""
    var wanted: Int
    """Pages in all."""
    var wanted_whole: Int
    """Pages in all if there is no partial hit."""

    def num_replaced(self) -> Int:
        """Returns how many own pages give way to hits.

        Returns:
            The number of pages.
        """
        return min(self.held - self.committed, self.num_hits)

    def num_new(self) -> Int:
        """Returns how many pages are appended to the row.

        Returns:
            The number of pages.
        """
        var covered = max(self.held, self.committed + self.num_hits)
        return max(0, self.wanted - covered)

    def drop_partial(mut self):
        """Goes on without the partial hit."""
        self.partial = NO_PARTIAL
        self.partial_length = 0
        self.wanted = self.wanted_whole
